"""COCO instances json: one parse, every record validated.

A file of 64,000 images holds some 17 million numbers. They become arrays while the file is parsed, so
that they never exist as Python objects all at once.
"""

from __future__ import annotations

import gc
import logging
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data.annotations import Annotations
from roiseg.data.rle import checked_counts

log = logging.getLogger(__name__)

_FAR = 10  # image sizes a polygon may lie outside
_HUGE = 1e30  # no coordinate; also what float32 still holds (nan and infinity are not below it)
_NOT_A_POLYGON = "`segmentation`: a polygon must be an even list of finite numbers x, y, x, y, ..."
_CHUNK = 10_000  # instances whose points are normalised at once
_READ = frozenset(
    {"images", "annotations", "id", "file_name", "height", "width", "pixel_size_um", "image_id"}
    | {"category_id", "bbox", "iscrowd", "segmentation", "size", "counts"}
)


def load_annotations(path: str | Path, category_id: int = 1) -> Annotations:
    """Parse and check a COCO instances file.

    Instances without any area (a side of 0, polygons of fewer than 3 points only) are dropped and
    counted in a warning; instances of other categories are left out.

    Args:
        path: the json file.
        category_id: the one category to read.

    Raises:
        UserError: the file is absent, broken, or a record is wrong; names file, record and field.
    """
    path = Path(path)
    with _no_garbage_collection():
        content = read_json(path, "annotations", each=_compact)
        for key in ("images", "annotations"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise UserError(f"annotations file {path} has no list `{key}`: it is not in COCO format")
        images = _read_images(content["images"], path)
        instances = _read_instances(content["annotations"], path, images, category_id)
        _check_points(instances, images, path)
        annotations = _pack(path, images, [instance for instance in instances if not instance.empty])
    dropped = len(instances) - len(annotations.ids)
    if dropped:
        log.warning("%s: %d instances without area left out", path, dropped)
    if not len(annotations.ids):
        known = sorted({repr(record.get("category_id")) for record in content["annotations"]})
        raise UserError(
            f"annotations file {path} has no instance of category_id {category_id} "
            f"(it has {', '.join(known) or 'no annotations'}): set another category_id or give another file"
        )
    return annotations


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of new objects, none in a cycle: looking for cycles takes longer than parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Image(NamedTuple):
    id: int
    file_name: str
    height: int
    width: int
    pixel_size: float | None  # micrometres


class _Instance(NamedTuple):
    number: int  # of the record
    id: int
    image: int  # index
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 normalised
    crowd: bool
    parts: list[array[float]]  # x, y, x, y ... in pixels
    counts: bytes  # compressed RLE, empty for polygons

    @property
    def polygons(self) -> list[array[float]]:
        """Parts of 3 points or more."""
        return [part for part in self.parts if len(part) >= 6]

    @property
    def empty(self) -> bool:
        x1, y1, x2, y2 = self.box
        return x2 <= x1 or y2 <= y1 or not (self.polygons or self.counts)


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """An object without what is not read, polygons as arrays where they are all numbers."""
    record = {key: value for key, value in record.items() if key in _READ}
    outline = record.get("segmentation")
    if isinstance(outline, list):
        record["segmentation"] = [_as_array(part) for part in outline]
    return record


def _as_array(part: Any) -> Any:
    if isinstance(part, list) and set(map(type, part)) <= {int, float}:
        try:
            return array("d", part)
        except OverflowError:
            return part
    return part


def _read_images(records: Sequence[Any], path: Path) -> list[_Image]:
    images: list[_Image] = []
    seen: set[int] = set()
    for number, record in enumerate(records):
        where = f"images[{number}] in {path}"
        if not isinstance(record, dict):
            raise UserError(f"{where} is not an object")
        values: dict[str, Any] = {key: record.get(key) for key in ("id", "height", "width")}
        for key, value in values.items():
            if not _is_whole(value):
                raise UserError(f"{where}: `{key}` must be a whole number, got {value!r}")
            if key != "id" and not 1 <= value < 1 << 31:
                raise UserError(f"{where}: `{key}` must be a number of pixels above 0, got {value!r}")
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: `file_name` must be a text, got {name!r}")
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in name:
            raise UserError(
                f"{where}: file_name {name!r} leaves the image folder; give it relative to that folder"
            )
        if values["id"] in seen:
            raise UserError(f"{where}: id {values['id']} occurs twice; ids must be unique")
        seen.add(values["id"])
        images.append(
            _Image(values["id"], name, values["height"], values["width"], _read_pixel_size(record, where))
        )
    without = [number for number, image in enumerate(images) if image.pixel_size is None]
    if without and len(without) < len(images):
        raise UserError(
            f"images[{without[0]}] in {path} has no `pixel_size_um` but others have: give it to all or none"
        )
    return images


def _read_pixel_size(record: dict[str, Any], where: str) -> float | None:
    size = record.get("pixel_size_um")
    if size is not None and not (_is_numbers([size]) and size > 0):
        raise UserError(f"{where}: `pixel_size_um` must be a number of micrometres above 0, got {size!r}")
    return size


def _read_instances(
    records: Sequence[Any], path: Path, images: list[_Image], category_id: int
) -> list[_Instance]:
    """Instances of the category, those without area included."""
    index = {image.id: i for i, image in enumerate(images)}
    instances: list[_Instance] = []
    seen: set[int] = set()
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"annotations[{number}] in {path} is not an object")
        if record.get("category_id") != category_id:
            continue
        instance = _read_instance(number, record, path, images, index)
        if instance.id in seen:
            raise UserError(
                f"annotations[{number}] in {path}: id {instance.id} occurs twice; ids must be unique"
            )
        seen.add(instance.id)
        instances.append(instance)
    return instances


def _read_instance(
    number: int, record: dict[str, Any], path: Path, images: list[_Image], index: dict[int, int]
) -> _Instance:
    identity, image_id = record.get("id"), record.get("image_id")
    if not _is_whole(identity):
        raise UserError(f"annotations[{number}] in {path}: `id` must be a whole number, got {identity!r}")
    where = _where(number, identity, path)
    if not _is_whole(image_id) or image_id not in index:
        raise UserError(f"{where}: `image_id` {image_id!r} is not the id of any image in the file")
    image = images[index[image_id]]
    bbox = record.get("bbox")
    if not _is_numbers(bbox) or len(bbox) != 4:
        raise UserError(f"{where}: `bbox` must be four finite numbers x, y, width, height, got {bbox!r}")
    x, y, w, h = bbox
    box = (
        max(0.0, x / image.width), max(0.0, y / image.height),
        min(1.0, (x + w) / image.width), min(1.0, (y + h) / image.height),
    )  # fmt: skip
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise UserError(f"{where}: `iscrowd` must be 0 or 1, got {crowd!r}")
    parts, counts = _read_segmentation(record.get("segmentation"), where, image)
    return _Instance(number, identity, index[image_id], box, bool(crowd), parts, counts)


def _where(number: int, identity: int, path: Path) -> str:
    return f"annotations[{number}] in {path} (id {identity})"


def _read_segmentation(segmentation: Any, where: str, image: _Image) -> tuple[list[array[float]], bytes]:
    if isinstance(segmentation, dict):
        try:
            size = (image.height, image.width)
            counts = checked_counts(segmentation, size)
            return [], counts if coco_mask.area({"size": size, "counts": counts}) else b""
        except ValueError as error:
            raise UserError(f"{where}: `segmentation`: {error}") from None
    if not isinstance(segmentation, list):
        raise UserError(f"{where}: `segmentation` must be a list of polygons or an RLE, got {segmentation!r}")
    for part in segmentation:
        if not isinstance(part, array) or len(part) % 2:
            raise UserError(f"{where}: {_NOT_A_POLYGON}")
    return segmentation, b""


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_numbers(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and set(map(type, value)) <= {int, float}
        and all(-_HUGE < v < _HUGE for v in value)
    )


def _check_points(instances: list[_Instance], images: list[_Image], path: Path) -> None:
    """No point lies far outside its image: rasterising takes memory in proportion."""
    for start in range(0, len(instances), _CHUNK):
        chunk = instances[start : start + _CHUNK]
        points, sizes = _points(chunk, images, [instance.parts for instance in chunk])
        wrong = ~(np.abs(points) <= _FAR * sizes)  # nan compares as False
        if not wrong.any():
            continue
        ends = np.cumsum([sum(map(len, instance.parts)) for instance in chunk])
        point = int(np.flatnonzero(wrong.any(axis=1))[0])
        instance = chunk[int(np.searchsorted(ends, 2 * point, side="right"))]
        where = _where(instance.number, instance.id, path)
        if not (np.abs(points[point]) < _HUGE).all():
            raise UserError(f"{where}: {_NOT_A_POLYGON}")
        raise UserError(f"{where}: `segmentation`: a polygon leaves the image by {_FAR} times its size")


def _points(
    instances: list[_Instance], images: list[_Image], parts: list[list[array[float]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [Q, 2] in pixels, parts end to end, and (width, height) [Q, 2] of the image each lies in."""
    points = np.frombuffer(b"".join(part for group in parts for part in group), np.float64).reshape(-1, 2)
    sizes = np.array([(images[i.image].width, images[i.image].height) for i in instances], np.float64)
    return points, np.repeat(sizes.reshape(-1, 2), [sum(map(len, group)) // 2 for group in parts], axis=0)


def _pack(path: Path, images: list[_Image], instances: list[_Instance]) -> Annotations:
    instances = sorted(instances, key=lambda instance: instance.image)  # stable: in the order of the file
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
    )
