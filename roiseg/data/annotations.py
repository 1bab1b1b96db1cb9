"""The instances of a data set in a few flat arrays.

Loader processes share flat arrays without copies, and their size grows with the outlines, not with the number
of Python objects. Coordinates are normalised to 0..1 of their image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.geometry.boxes import Boxes, denormalize
from roiseg.geometry.outlines import Outlines


@dataclass(frozen=True)
class Annotations:
    """The instances of one category in a set of images.

    Instances of image i are `first[i] : first[i + 1]`; the polygon parts of instance n are
    `parts[n] : parts[n + 1]`, the points of part p `points[part_ends[p - 1] : part_ends[p]]`.
    """

    path: Path
    image_ids: NDArray[np.int64]  # [I]
    file_names: NDArray[np.str_]  # [I]
    sizes: NDArray[np.int32]  # [I, 2] height, width in pixels
    pixel_sizes: NDArray[np.float32]  # [I] micrometres per pixel; 1 if unknown
    first: NDArray[np.int64]  # [I + 1]
    ids: NDArray[np.int64]  # [N]
    boxes: Boxes  # [N, 4] x1, y1, x2, y2, normalised
    crowd: NDArray[np.bool_]  # [N]
    parts: NDArray[np.int64]  # [N + 1]
    part_ends: NDArray[np.int64]  # [P]
    points: NDArray[np.float32]  # [Q, 2] x, y, normalised
    runs: NDArray[np.uint8]  # compressed RLE counts, end to end
    run_ends: NDArray[np.int64]  # [N + 1]
    warnings: tuple[str, ...]  # probable mistakes in the file, see `roiseg.data.annotation_loading`

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def size(self, image: int) -> tuple[int, int]:
        """Return (H, W) of an image in pixels."""
        height, width = self.sizes[image]
        return int(height), int(width)

    def instances(self, image: int) -> NDArray[np.int64]:
        """Return the indices of an image's instances, crowds included."""
        return np.arange(self.first[image], self.first[image + 1])

    def pixel_boxes(self, image: int) -> Boxes:
        """Return the boxes [n, 4] of an image's instances in original pixels."""
        return denormalize(self.boxes[self.first[image] : self.first[image + 1]], self.size(image))

    def all_pixel_boxes(self) -> Boxes:
        """Return the boxes [N, 4] of all instances in original pixels."""
        return self.boxes * np.repeat(self.sizes[:, [1, 0, 1, 0]], np.diff(self.first), 0).astype(np.float32)

    def eligible(self, image: int, min_size: float) -> NDArray[np.int64]:
        """Return the positions within `instances(image)` of those that can be a ROI.

        Both sides are at least `min_size` pixels, and the instance is not a crowd.
        """
        crowd = self.crowd[self.first[image] : self.first[image + 1]]
        return np.flatnonzero(large(self.pixel_boxes(image), min_size) & ~crowd)

    def all_eligible(self, min_size: float) -> NDArray[np.int64]:
        """Return the indices of all instances that can be a ROI."""
        return np.flatnonzero(large(self.all_pixel_boxes(), min_size) & ~self.crowd)

    def eligible_counts(self, min_size: float) -> NDArray[np.int64]:
        """Return the number [I] of `eligible` instances per image."""
        return np.diff(np.searchsorted(self.all_eligible(min_size), self.first))

    def extents(self) -> Boxes:
        """Return the normalised bounds [N, 4] of all outlines."""
        extents = np.empty((len(self.ids), 4), np.float32)
        polygons = np.diff(self.parts) > 0
        starts = np.append(0, self.part_ends)[self.parts[:-1][polygons]]
        if len(starts):
            extents[polygons, :2] = np.minimum.reduceat(self.points, starts)
            extents[polygons, 2:] = np.maximum.reduceat(self.points, starts)
        for instance in np.flatnonzero(~polygons).tolist():
            outline = self.outline(instance)
            height, width = outline.size
            x, y, w, h = coco_mask.toBbox(outline.rle(0))
            extents[instance] = x / width, y / height, (x + w) / width, (y + h) / height
        return extents

    def image_of(self, instance: int) -> int:
        """Return the index of an instance's image."""
        return int(np.searchsorted(self.first, instance, "right")) - 1

    def outlines(self, image: int) -> Outlines:
        """Return the outlines of an image's instances, crowds included, without copying."""
        return self._outlines(image, slice(self.first[image], self.first[image + 1] + 1))

    def outline(self, instance: int) -> Outlines:
        """Return the outline of one instance, without copying."""
        return self._outlines(self.image_of(instance), slice(instance, instance + 2))

    def _outlines(self, image: int, some: slice) -> Outlines:
        parts, run_ends = self.parts[some], self.run_ends[some]
        part_ends = self.part_ends[parts[0] : parts[-1]]
        start = self.part_ends[parts[0] - 1] if parts[0] else 0
        return Outlines(
            self.size(image),
            self.points[start : part_ends[-1] if len(part_ends) else start],
            part_ends - start,
            parts - parts[0],
            self.runs[run_ends[0] : run_ends[-1]],
            run_ends - run_ends[0],
        )


def large(boxes: Boxes, min_size: float) -> NDArray[np.bool_]:
    """Return which boxes [n, 4] have both sides of at least `min_size`."""
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return sides >= min_size - 1e-3
