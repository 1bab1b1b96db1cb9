"""Records that an annotation reader checks and packs into the flat arrays of `Annotations`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.common.limits import OUTLINE
from roiseg.data.annotations import Annotations

NOT_A_POLYGON = (
    "`segmentation` must be an RLE or polygons, each an even list of finite numbers x, y, x, y, ..."
)
HUGE = 1e30  # no coordinate; also what float32 still holds (nan and infinity are not below it)
_FAR = 10  # image sizes a polygon may lie outside
_CHUNK = 10_000  # instances whose points are processed together


class ImageRecord(NamedTuple):
    """Checked record of an image."""

    id: int
    file_name: str
    height: int
    width: int
    pixel_size: float | None  # micrometres


class InstanceRecord(NamedTuple):
    """Checked record of an instance; `build_annotations` checks its points."""

    number: int  # position of the record in its file
    id: int
    image: int  # position in the list of images
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 normalised
    crowd: bool
    parts: list[array[float]]  # x, y, x, y ... in pixels
    counts: bytes  # compressed RLE, empty for polygons

    @property
    def polygons(self) -> list[array[float]]:
        """Return the parts of 3 points or more."""
        return [part for part in self.parts if len(part) >= 6]

    @property
    def empty(self) -> bool:
        """Tell whether it has no area."""
        x1, y1, x2, y2 = self.box
        return x2 <= x1 or y2 <= y1 or not (self.polygons or self.counts)


def record_name(number: int, identity: int, path: Path) -> str:
    """Name an instance's record in an error message."""
    return f"annotations[{number}] in {path} (id {identity})"


def _check_points(instances: list[InstanceRecord], images: list[ImageRecord], path: Path) -> None:
    """Reject points far outside their image, which would take memory in proportion; drop invisible parts."""
    for start in range(0, len(instances), _CHUNK):
        chunk = instances[start : start + _CHUNK]
        points, sizes = _points(chunk, images, [instance.parts for instance in chunk])
        wrong = ~(np.abs(points) <= _FAR * sizes)  # nan compares as False
        if not wrong.any():
            _check_lengths(chunk, points, path)
            _drop_invisible(chunk, points, sizes)
            continue
        ends = np.cumsum([sum(map(len, instance.parts)) for instance in chunk])
        point = int(np.flatnonzero(wrong.any(axis=1))[0])
        instance = chunk[int(np.searchsorted(ends, 2 * point, side="right"))]
        where = record_name(instance.number, instance.id, path)
        if not (np.abs(points[point]) < HUGE).all():
            raise UserError(f"{where}: {NOT_A_POLYGON}")
        raise UserError(f"{where}: `segmentation`: a polygon leaves the image by {_FAR} times its size")


def _check_lengths(instances: list[InstanceRecord], points: NDArray[np.float64], path: Path) -> None:
    """Reject scribbles: pycocotools takes memory in proportion to an outline's length, and may crash."""
    steps = np.abs(np.diff(points, axis=0, append=points[-1:])).max(axis=1)
    counts = [sum(map(len, instance.parts)) // 2 for instance in instances]
    lengths = np.bincount(np.repeat(np.arange(len(instances)), counts), steps, len(instances))
    for index in np.flatnonzero(lengths > OUTLINE)[:1]:
        instance = instances[index]
        raise UserError(
            f"{record_name(instance.number, instance.id, path)}: `segmentation`: its polygons are "
            f"{lengths[index]:,.0f} pixels long, {OUTLINE:,} at most: annotate it again, or as RLE"
        )


def _drop_invisible(
    instances: list[InstanceRecord], points: NDArray[np.float64], sizes: NDArray[np.float64]
) -> None:
    """Remove the parts that lie outside their image, or on a line along one of its sides.

    Args:
        points, sizes: of all their parts, see `_points`.
    """
    parts = [(i, n) for i in instances for n, part in enumerate(i.parts) if part]
    if not parts:
        return
    starts = np.cumsum([0] + [len(instance.parts[n]) // 2 for instance, n in parts[:-1]])
    low = np.maximum(np.minimum.reduceat(points, starts), 0)
    high = np.minimum(np.maximum.reduceat(points, starts), sizes[starts])
    for index in np.flatnonzero((high <= low).any(axis=1))[::-1]:
        instance, n = parts[index]
        del instance.parts[n]


def _points(
    instances: list[InstanceRecord], images: list[ImageRecord], parts: list[list[array[float]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points [Q, 2] in pixels, part after part, and the (width, height) [Q, 2] of their images."""
    points = np.frombuffer(b"".join(part for group in parts for part in group), np.float64).reshape(-1, 2)
    sizes = np.array([(images[i.image].width, images[i.image].height) for i in instances], np.float64)
    return points, np.repeat(sizes.reshape(-1, 2), [sum(map(len, group)) // 2 for group in parts], axis=0)


def build_annotations(path: Path, images: list[ImageRecord], instances: list[InstanceRecord]) -> Annotations:
    """Check the points of all instances and pack what has an area, in the order of the images.

    Args:
        path: the file, for messages.
        instances: their instances of one category, each with polygons or a run-length encoding. Parts that
            show nothing are removed from them.

    Raises:
        UserError: a point is not finite or far outside, or an outline is too long; names the record.
    """
    _check_points(instances, images, path)
    total = len(instances)
    instances = [instance for instance in instances if not instance.empty]
    if without_area := total - len(instances):
        warning = f"{without_area:,} instances without area left out: check their `segmentation` and `bbox`"
    instances.sort(key=lambda instance: instance.image)  # stable: in the order of the file
    polygons = [instance.polygons for instance in instances]
    lengths = [len(part) // 2 for group in polygons for part in group]
    points = np.empty((sum(lengths), 2), np.float32)
    filled = 0
    for start in range(0, len(instances), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pixels, sizes = _points(instances[chunk], images, polygons[chunk])
        points[filled : filled + len(pixels)] = pixels / sizes
        filled += len(pixels)
    per_image = np.bincount([instance.image for instance in instances], minlength=len(images))

    def ends(numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.asarray(numbers, np.int64))]).astype(np.int64)

    return Annotations(
        path=path,
        image_ids=np.array([image.id for image in images], np.int64),
        file_names=np.array([image.file_name for image in images]),
        sizes=np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
        pixel_sizes=np.array([image.pixel_size or 1.0 for image in images], np.float32),
        first=ends(per_image),
        ids=np.array([instance.id for instance in instances], np.int64),
        boxes=np.array([instance.box for instance in instances], np.float32).reshape(-1, 4),
        crowd=np.array([instance.crowd for instance in instances], bool),
        parts=ends([len(group) for group in polygons]),
        part_ends=ends(lengths)[1:],
        points=points,
        runs=np.frombuffer(b"".join(instance.counts for instance in instances), np.uint8),
        run_ends=ends([len(instance.counts) for instance in instances]),
        warnings=(warning,) if without_area else (),
    )
