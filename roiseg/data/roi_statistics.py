"""Measure sizes, overlaps and class shares of all ROIs from outlines alone, many images at a time."""

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
from roiseg.geometry.outlines import Grids, Planes, expand, polygon_planes

CLASSES = {"background": BACKGROUND, "target": TARGET, "non_target": NON_TARGET, "ignore": IGNORE}
_CHUNK = 1 << 17  # points, and words of the grids, rasterized at a time: a few MB
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


@dataclass(frozen=True)
class RoiStatistics:
    """Measurements of each ROI."""

    images: int  # number of images with a ROI
    sides: NDArray[np.float32]  # [R, 2] width, height in original pixels
    counts: NDArray[np.int32]  # [R, 4] grid cells by class, as in `CLASSES`
    nearest_iou: NDArray[np.float32]  # [R] highest box IoU with another non-crowd instance, or 0

    @property
    def area(self) -> NDArray[np.float64]:
        """Return areas [R] in original pixels."""
        return self.sides.astype(np.float64).prod(axis=1)


def measure_rois(annotations: Annotations, min_roi_size: float, grid: int) -> RoiStatistics:
    """Measure all ROIs, under a progress bar."""
    boxes, extents = annotations.all_pixel_boxes(), annotations.extents()
    rois = annotations.all_eligible(min_roi_size)
    images = np.searchsorted(annotations.first, rois, "right") - 1
    counts, nearest = np.zeros((len(rois), len(CLASSES)), np.int32), np.zeros(len(rois), np.float32)
    with progress_bar() as bar:
        task = bar.add_task("analyzing ROIs", total=len(rois))
        for some in _chunks(annotations, images, grid):
            pairs = _pairs(annotations, extents, rois[some], images[some])
            nearest[some] = _nearest_iou(boxes, rois[some], pairs, annotations.crowd)
            planes = _planes(annotations, images[some], pairs, _grids(boxes[rois[some]], grid))
            counts[some] = _count(planes, rois[some], pairs, annotations.crowd, grid)
            bar.advance(task, len(rois[some]))
    return RoiStatistics(len(np.unique(images)), boxes[rois, 2:] - boxes[rois, :2], counts, nearest)


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a ROI and an instance of its image, ROI by ROI."""

    roi: NDArray[np.int64]  # [K] position of the ROI
    near: NDArray[np.bool_]  # [K] whether the instance's outline can reach into the ROI
    instance: NDArray[np.int64]  # [K] index in the whole set
    first: NDArray[np.int64]  # [R] start of each ROI's pairs


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
    """Yield the ROIs that are measured together: those of several images, or some of a large one."""
    point_ends = np.append(0, annotations.part_ends)
    parts = annotations.parts[annotations.first]
    points = np.diff(point_ends[parts])
    words = (np.diff(parts) + np.diff(annotations.first)) * grid * -(-grid // 64)
    runs = np.diff(annotations.run_ends[annotations.first])
    chunk = np.cumsum((points + words + runs)[images]) // _CHUNK
    ends = np.append(np.flatnonzero(np.diff(chunk)) + 1, len(images)).tolist()
    yield from (slice(a, b) for a, b in zip([0, *ends], ends, strict=False))


def _grids(boxes: Boxes, grid: int) -> Grids:
    """Return a grid over each box [R, 4] in original pixels."""
    corners = boxes.astype(np.float64)
    cells = grid / (corners[:, 2:] - corners[:, :2])  # per original pixel
    return Grids(cells, -corners[:, :2] * cells, (grid, grid))


def _planes(annotations: Annotations, images: NDArray[np.int64], pairs: _Pairs, grids: Grids) -> Planes:
    """Rasterize each pair's instance on its ROI's grid: bits [B, K, w], see `roiseg.geometry.outlines`."""
    height, width = grids.size
    planes = np.zeros((-(-height // 64), len(pairs.roi), width), np.uint64)
    number = (annotations.parts[pairs.instance + 1] - annotations.parts[pairs.instance]) * pairs.near
    rows = np.flatnonzero(number)
    polygons = _polygon_planes(annotations, images, pairs, number, grids)
    planes[:, rows] = np.bitwise_or.reduceat(polygons, (np.cumsum(number) - number)[rows], axis=1)
    encoded = annotations.run_ends[pairs.instance + 1] > annotations.run_ends[pairs.instance]
    for image in np.unique(images[pairs.roi[encoded]]):
        rois = slice(*np.searchsorted(images, [image, image + 1]))
        some = slice(*np.searchsorted(pairs.roi, [rois.start, rois.stop]))
        planes[:, some] = annotations.outlines(image).planes(grids[rois]).reshape(len(planes), -1, width)
    return planes


def _polygon_planes(
    annotations: Annotations,
    images: NDArray[np.int64],
    pairs: _Pairs,
    number: NDArray[np.int64],
    grids: Grids,
) -> Planes:
    """Rasterize all polygons of the pairs, `number` [K] each, on their ROIs' grids: bits [B, P, w]."""
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
    """Count the cells [R, 4] of each class as `rasterize_targets` labels them."""
    planes[-1] &= np.uint64((1 << (grid - 1) % 64 + 1) - 1)  # below the grid
    target = planes[:, pairs.first + rois - pairs.instance[pairs.first]]
    uncertain = crowd[pairs.instance]
    anyone = np.bitwise_or.reduceat(planes, pairs.first, axis=1)
    planes[:, uncertain] = 0
    persons = np.bitwise_or.reduceat(planes, pairs.first, axis=1)
    others, ignored = persons & ~target, anyone & ~persons
    cells = [_count_bits(bits) for bits in (target, others, ignored)]
    return np.stack([grid**2 - sum(cells), *cells], axis=1)


def _count_bits(planes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number [R] of set bits in [B, R, w]."""
    return _BITS[planes.view(np.uint8)].sum(axis=(0, 2), dtype=np.int64)


def _nearest_iou(
    boxes: Boxes, rois: NDArray[np.int64], pairs: _Pairs, crowd: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the highest box IoU [R] with another non-crowd instance; 0 if there is none."""
    mine, other = boxes[rois[pairs.roi]], boxes[pairs.instance]
    sides = np.minimum(mine[:, 2:], other[:, 2:]) - np.maximum(mine[:, :2], other[:, :2])
    both = sides.clip(0).prod(axis=1)
    iou = both / (area(mine) + area(other) - both)
    iou[(rois[pairs.roi] == pairs.instance) | crowd[pairs.instance]] = 0
    return np.maximum.reduceat(iou, pairs.first)
