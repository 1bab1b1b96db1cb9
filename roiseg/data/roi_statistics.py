"""Sizes, overlaps and class shares of all ROIs of a data set, from outlines alone, many images at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.classes import BACKGROUND, IGNORE, NON_TARGET, TARGET
from roiseg.common.console import progress_bar
from roiseg.data.annotations import Annotations
from roiseg.geometry.boxes import Boxes, area
from roiseg.geometry.rasterize import Grids, Planes, expand, polygon_planes

CLASSES = {"background": BACKGROUND, "target": TARGET, "non_target": NON_TARGET, "ignore": IGNORE}
_AT_ONCE = 1 << 17  # points, and words of the grids, rasterised at once: a few MB
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


@dataclass(frozen=True)
class RoiStatistics:
    """What is kept of each ROI."""

    images: int  # that have any ROI
    sides: NDArray[np.float32]  # [R, 2] width, height in original pixels
    counts: NDArray[np.int32]  # [R, 4] grid cells by class, as in `CLASSES`
    nearest_iou: NDArray[np.float32]  # [R] highest IoU of its box with another non-crowd instance's, or 0

    @property
    def area(self) -> NDArray[np.float64]:
        """[R] original pixels."""
        return self.sides.astype(np.float64).prod(axis=1)


def measure_rois(annotations: Annotations, min_roi_size: float, grid: int) -> RoiStatistics:
    """Measure all ROIs, under a progress bar.

    Args:
        annotations: the instances.
        min_roi_size: smallest side of a ROI in original pixels.
        grid: side of the grid that is laid over every ROI, in cells.
    """
    boxes, extents = annotations.all_pixel_boxes(), annotations.extents()
    rois = annotations.all_eligible(min_roi_size)
    images = np.searchsorted(annotations.first, rois, "right") - 1
    counts, nearest = np.zeros((len(rois), len(CLASSES)), np.int32), np.zeros(len(rois), np.float32)
    with progress_bar() as bar:
        task = bar.add_task("analysing ROIs", total=len(rois))
        for some in _chunks(annotations, images, grid):
            pairs = _pairs(annotations, extents, rois[some], images[some])
            nearest[some] = _nearest_iou(boxes, rois[some], pairs, annotations.crowd)
            planes = _planes(annotations, images[some], pairs, _grids(boxes[rois[some]], grid))
            counts[some] = _count(planes, rois[some], pairs, annotations.crowd, grid)
            bar.advance(task, len(rois[some]))
    return RoiStatistics(len(np.unique(images)), boxes[rois, 2:] - boxes[rois, :2], counts, nearest)


@dataclass(frozen=True)
class _Pairs:
    """Every ROI with every instance of its image, ROI by ROI."""

    roi: NDArray[np.int64]  # [K] position of the ROI
    near: NDArray[np.bool_]  # [K] may the instance's outline reach into the ROI?
    instance: NDArray[np.int64]  # [K] over the whole set
    first: NDArray[np.int64]  # [R] where each ROI's pairs begin


def _pairs(
    annotations: Annotations, extents: Boxes, rois: NDArray[np.int64], images: NDArray[np.int64]
) -> _Pairs:
    first = annotations.first[images]
    number = annotations.first[images + 1] - first
    roi, step = expand(number)
    instance = first[roi] + step
    window, extent = annotations.boxes[rois[roi]], extents[instance]
    near = ((extent[:, :2] < window[:, 2:]) & (extent[:, 2:] > window[:, :2])).all(axis=1)
    return _Pairs(roi, near, instance, np.cumsum(number) - number)


def _chunks(annotations: Annotations, images: NDArray[np.int64], grid: int) -> Iterator[slice]:
    """ROIs that are measured together: of several images, or some of one with many."""
    point_ends = np.append(0, annotations.part_ends)
    parts = annotations.parts[annotations.first]
    points = np.diff(point_ends[parts])
    words = (np.diff(parts) + np.diff(annotations.first)) * grid * -(-grid // 64)
    runs = np.diff(annotations.run_ends[annotations.first])
    done = np.cumsum((points + words + runs)[images]) // _AT_ONCE
    ends = np.append(np.flatnonzero(np.diff(done)) + 1, len(images)).tolist()
    yield from (slice(a, b) for a, b in zip([0, *ends], ends, strict=False))


def _grids(boxes: Boxes, grid: int) -> Grids:
    """A grid over each box [R, 4] in original pixels."""
    corners = boxes.astype(np.float64)
    cells = grid / (corners[:, 2:] - corners[:, :2])  # per original pixel
    return Grids(cells, -corners[:, :2] * cells, (grid, grid))


def _planes(annotations: Annotations, images: NDArray[np.int64], pairs: _Pairs, grids: Grids) -> Planes:
    """Bits [B, K, w] of each pair's instance on its ROI's grid, see `roiseg.geometry.rasterize`."""
    height, width = grids.size
    planes = np.zeros((-(-height // 64), len(pairs.roi), width), np.uint64)
    number = (annotations.parts[pairs.instance + 1] - annotations.parts[pairs.instance]) * pairs.near
    drawn = np.flatnonzero(number)
    polygons = _polygon_planes(annotations, images, pairs, number, grids)
    planes[:, drawn] = np.bitwise_or.reduceat(polygons, (np.cumsum(number) - number)[drawn], axis=1)
    encoded = annotations.run_ends[pairs.instance + 1] > annotations.run_ends[pairs.instance]
    for image in np.unique(images[pairs.roi[encoded]]):
        rois = slice(*np.searchsorted(images, [image, image + 1]))
        rows = slice(*np.searchsorted(pairs.roi, [rois.start, rois.stop]))
        planes[:, rows] = annotations.outlines(image).planes(grids[rois]).reshape(len(planes), -1, width)
    return planes


def _polygon_planes(
    annotations: Annotations,
    images: NDArray[np.int64],
    pairs: _Pairs,
    number: NDArray[np.int64],
    grids: Grids,
) -> Planes:
    """Bits [B, P, w] of all polygons of the pairs, `number` [K] of each, on their ROIs' grids."""
    pair, step = expand(number)
    part = annotations.parts[pairs.instance][pair] + step
    starts = np.where(part > 0, annotations.part_ends[part - 1], 0)
    lengths = annotations.part_ends[part] - starts
    polygon, step = expand(lengths)
    roi = pairs.roi[pair][polygon]
    cells = annotations.sizes[images, ::-1] * grids.scale  # per image
    points = annotations.points[starts[polygon] + step] * cells[roi] + grids.shift[roi]
    mapped = Grids(np.ones((1, 2)), np.zeros((1, 2)), grids.size)  # the points are in cells already
    return polygon_planes(points, np.cumsum(lengths) - lengths, mapped)[:, 0]


def _count(
    planes: Planes, rois: NDArray[np.int64], pairs: _Pairs, crowd: NDArray[np.bool_], grid: int
) -> NDArray[np.int64]:
    """Cells [R, 4] of each class, as `rasterize_targets` labels them."""
    planes[-1] &= np.uint64((1 << (grid - 1) % 64 + 1) - 1)  # below the grid
    target = planes[:, pairs.first + rois - pairs.instance[pairs.first]]
    uncertain = crowd[pairs.instance]
    anyone = np.bitwise_or.reduceat(planes, pairs.first, axis=1)
    planes[:, uncertain] = 0
    persons = np.bitwise_or.reduceat(planes, pairs.first, axis=1)
    others, ignored = persons & ~target, anyone & ~persons
    cells = [_bits(layer) for layer in (target, others, ignored)]
    return np.stack([grid**2 - sum(cells), *cells], axis=1)


def _bits(planes: NDArray[Any]) -> NDArray[np.int64]:
    """Number [R] of bits that are set in [B, R, w]."""
    return _BITS[planes.view(np.uint8)].sum(axis=(0, 2), dtype=np.int64)


def _nearest_iou(
    boxes: Boxes, rois: NDArray[np.int64], pairs: _Pairs, crowd: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Highest IoU [R] of a ROI's box with another non-crowd instance's; 0 where none is."""
    mine, other = boxes[rois[pairs.roi]], boxes[pairs.instance]
    sides = np.minimum(mine[:, 2:], other[:, 2:]) - np.maximum(mine[:, :2], other[:, :2])
    both = sides.clip(0).prod(axis=1)
    iou = both / (area(mine) + area(other) - both)
    iou[(rois[pairs.roi] == pairs.instance) | crowd[pairs.instance]] = 0
    return np.maximum.reduceat(iou, pairs.first)
