"""Rasterize the outlines of instances onto many small grids at once: a cell is set if its centre is inside.

A scanline rasterizer with one scanline per column, like COCO's run-length encoding. Where the centre line of
a column crosses an outline, all cells below change sides. A column of 64 cells is one word, so a crossing
costs one exclusive-or, and the result is exact (even-odd rule). Time and memory grow with the number of
crossings, not with the image or the number of cells.

Planes of bits are `uint64 [B, G, n, w]`: cell (y, x) of outline i on grid g is bit y % 64 of
`[y // 64, g, i, x]`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.geometry.rle import decompress

Planes = NDArray[np.uint64]

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Grids:
    """G grids of one size laid over an image: cells = scale * pixels + shift."""

    scale: NDArray[np.float64]  # [G, 2] x, y; a negative x is a mirror image
    shift: NDArray[np.float64]  # [G, 2] x, y
    size: tuple[int, int]  # (h, w) in cells

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, some: slice) -> Grids:
        return Grids(self.scale[some], self.shift[some], self.size)

    def planes(self, outlines: int) -> Planes:
        """Return empty planes of `outlines` outlines."""
        height, width = self.size
        return np.zeros((-(-height // 64), len(self), outlines, width), np.uint64)


def polygon_planes(points: NDArray[np.float64], starts: NDArray[np.int64], grids: Grids) -> Planes:
    """Rasterize n polygons onto every grid.

    Args:
        points: [P, 2] x, y in pixels, polygon after polygon.
        starts: [n] where each polygon's points begin.

    Returns:
        bits [B, G, n, w]. A cell whose centre lies on an outline belongs to one of its two sides.
    """
    height, width = grids.size
    planes = grids.planes(len(starts))
    if not planes.size:
        return planes
    following, polygon = _rings(starts, len(points))
    # in cells whose centres are whole numbers
    x = points[:, 0] * grids.scale[:, :1] + (grids.shift[:, :1] - 0.5)
    y = points[:, 1] * grids.scale[:, 1:] + (grids.shift[:, 1:] - 0.5)
    column = np.ceil(x).clip(0, width).astype(np.int64)  # first whose centre is not left of the point
    ahead = column.take(following, axis=1) - column
    # an outline above or below the grid has an even number of crossings in each of its columns
    near = (np.minimum.reduceat(y, starts, axis=1) < height) & (np.maximum.reduceat(y, starts, axis=1) > -1)
    edges = ((ahead != 0) & near.take(polygon, axis=1)).ravel().nonzero()[0]
    grid, point = np.divmod(edges, len(points))
    other = edges + (following - np.arange(len(points)))[point]
    ahead, column, x, y = ahead.ravel()[edges], column.ravel(), x.ravel(), y.ravel()
    left, right = np.where(ahead > 0, edges, other), np.where(ahead > 0, other, edges)
    # from the left end, so that two polygons agree on the edge they share
    slope = (y[right] - y[left]) / (x[right] - x[left])
    first = column[left]
    start = y[left] + (first - x[left]) * slope
    edge, step = expand(np.abs(ahead))
    row = start[edge] + step * slope[edge]
    word = ((grid * len(starts) + polygon[point]) * width + first)[edge] + step
    _flip_below(planes, word, np.ceil(row))
    return planes


def run_planes(
    ends: NDArray[np.int64], first: NDArray[np.int64], size: tuple[int, int], grids: Grids
) -> Planes:
    """Rasterize n run-length encoded masks: look up the pixel under the centre of every cell of every grid.

    Args:
        ends: where each run ends, counted down the columns of the first mask, then of the second, ...;
            each mask begins with a run of background (which may be of length 0) and ends after H * W.
        first: [n + 1] where each mask's runs begin in `ends`.
        size: (H, W) of the masks in pixels.
        grids: the grids; `scale` of y must be positive.

    Returns:
        bits [B, G, n, w]; cells beyond the masks are not set.
    """
    height, width = size
    masks = len(first) - 1
    planes = grids.planes(masks)
    if not planes.size:
        return planes
    column = (np.arange(grids.size[1]) + 0.5 - grids.shift[:, :1]) / grids.scale[:, :1]
    top = np.floor(column).astype(np.int64)[:, None] * height + np.arange(masks)[:, None] * (height * width)
    # where the first run of foreground starts and the last one ends
    begin, end = ends[first[:-1]], ends[(first[1:] - first[:-1]) // 2 * 2 - 1 + first[:-1]]
    words = ((top + height > begin[:, None]) & (top < end[:, None])).ravel().nonzero()[0]
    top = top.ravel()[words]
    grid, mask = np.divmod(words // grids.size[1], masks)
    # runs that end in or above the top pixel of the column, and in or above its bottom pixel
    passed = ends.searchsorted(top[:, None] + (0, height - 1), "right")
    inside = ((passed - first[mask, None]) & 1).ravel().nonzero()[0]  # a mask begins at the top edge, ...
    some, step = expand(passed[:, 1] - passed[:, 0])
    row = np.concatenate([ends[passed[some, 0] + step] - top[some], inside % 2 * height])
    some = np.concatenate([some, inside // 2])
    row = row * grids.scale[:, 1][grid[some]] + (grids.shift[:, 1] - 0.5)[grid[some]]
    _flip_below(planes, words[some], np.ceil(row))
    return planes


def unpack(planes: Planes) -> NDArray[np.uint8]:
    """Unpack bits [B, G, w] to 0/1 [G, w, 64 B], column by column; cells below the grid are padding."""
    words = planes.transpose(1, 2, 0).ravel().astype("<u8", copy=False)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return bits.reshape(*planes.shape[1:], 64 * len(planes))


def _rings(starts: NDArray[np.int64], points: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the next point around its polygon, and the polygon, of each point."""
    following = np.arange(1, points + 1)
    following[starts[1:] - 1] = starts[:-1]
    following[-1] = starts[-1]
    polygon = np.zeros(points, np.int64)
    polygon[starts[1:]] = 1
    return following, polygon.cumsum()


def expand(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Expand counts to (index, position): [2, 0, 3] -> [0, 0, 2, 2, 2] and [0, 1, 0, 1, 2]."""
    which = np.arange(len(counts)).repeat(counts)
    return which, np.arange(len(which)) - (counts.cumsum() - counts)[which]


def _flip_below(planes: Planes, word: NDArray[np.int64], row: NDArray[np.float64]) -> None:
    """Flip, in column `word` [K] of the planes, all cells from `row` [K] downwards."""
    row = row.clip(0, 64 * len(planes))
    for block, plane in enumerate(planes.reshape(len(planes), -1)):
        shift = row if not block else np.maximum(row - 64 * block, 0)
        np.bitwise_xor.at(plane, word, _ALL << shift.astype(np.uint64))


@dataclass(frozen=True)
class Outlines:
    """Outlines of n instances, each a set of polygons or a COCO run-length encoding.

    The polygons of instance i are `parts[i] : parts[i + 1]`, the points of polygon p
    `points[part_ends[p - 1] : part_ends[p]]`; its run-length encoding is
    `runs[run_ends[i] : run_ends[i + 1]]`, empty where it has polygons.
    """

    size: tuple[int, int]  # (H, W) of the image in pixels
    points: NDArray[np.float32]  # [Q, 2] x, y, normalised to 0..1 of the image
    part_ends: NDArray[np.int64]  # [P]
    parts: NDArray[np.int64]  # [n + 1]
    runs: NDArray[np.uint8]  # compressed counts, end to end
    run_ends: NDArray[np.int64]  # [n + 1]

    def __len__(self) -> int:
        return len(self.parts) - 1

    def pixels(self, instance: int) -> list[NDArray[np.float64]]:
        """Return the polygons [P, 2] of an instance in pixels, rounded to 0.001, the precision of float32.

        pycocotools rounds to fifths of a pixel. A coordinate such as 10.1 lies between two of them and must
        be restored exactly for its mask to equal that of pycocotools.
        """
        height, width = self.size
        first, last = self.parts[instance], self.parts[instance + 1]
        points = self.points[self._starts[first] : self._starts[last]]
        inner = self._starts[first + 1 : last] - self._starts[first]
        return np.split((points.astype(np.float64) * (width, height)).round(3), inner) if last > first else []

    def rle(self, instance: int) -> dict[str, Any]:
        """Return the COCO RLE of an instance at the image's size; polygons are encoded by pycocotools."""
        counts = self.runs[self.run_ends[instance] : self.run_ends[instance + 1]]
        if len(counts):
            return {"size": list(self.size), "counts": counts.tobytes()}
        flat = [part.ravel() for part in self.pixels(instance)]
        return coco_mask.merge(coco_mask.frPyObjects(flat, *self.size))

    def planes(self, grids: Grids) -> Planes:
        """Rasterize all instances onto every grid: a cell is set if its centre is inside.

        Inside means in any polygon (even-odd rule), or on a pixel of the run-length encoding.

        Args:
            grids: over original pixels.

        Returns:
            bits [B, G, n, w].
        """
        encoded = self._encoded
        if len(encoded) == len(self):
            return run_planes(*self._runs, self.size, grids)
        height, width = self.size
        polygons = polygon_planes(self.points.astype(np.float64) * (width, height), self._starts[:-1], grids)
        with_polygons = (self.parts[1:] > self.parts[:-1]).nonzero()[0]
        if len(with_polygons) < len(self.part_ends):
            polygons = np.bitwise_or.reduceat(polygons, self.parts[with_polygons], axis=2)
        if not len(encoded):
            return polygons
        mixed = grids.planes(len(self))
        mixed[:, :, with_polygons] = polygons
        mixed[:, :, encoded] = run_planes(*self._runs, self.size, grids)
        return mixed

    def revised(self, kept: Sequence[int], counts: Sequence[bytes | None]) -> Outlines:
        """Return some of the instances, some of them with new outlines, and additional ones.

        Args:
            kept: [m] positions; ignored for an instance with new counts.
            counts: [m] compressed run-length encodings that replace the outline; None keeps it.
        """
        points, lengths, parts, runs = [self.points[:0]], [self.part_ends[:0]], [0], [self.runs[:0]]
        for instance, text in zip(kept, counts, strict=True):
            if text is not None:
                runs.append(np.frombuffer(text, np.uint8))
                parts.append(0)
                continue
            first, last = self.parts[instance], self.parts[instance + 1]
            points.append(self.points[self._starts[first] : self._starts[last]])
            lengths.append(np.diff(self._starts[first : last + 1]))
            parts.append(last - first)
            runs.append(self.runs[self.run_ends[instance] : self.run_ends[instance + 1]])
        return Outlines(
            self.size,
            np.concatenate(points),
            np.concatenate(lengths).cumsum(),
            np.array(parts, np.int64).cumsum(),
            np.concatenate(runs),
            np.array([len(text) for text in runs], np.int64).cumsum(),
        )

    def work(self, grids: Grids) -> int:
        """Return about how many numbers per grid `planes` holds in memory."""
        height, width = grids.size
        return len(self.points) + (len(self) + len(self.part_ends)) * width * -(-height // 64)

    @functools.cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], self.part_ends])

    @functools.cached_property
    def _encoded(self) -> NDArray[np.int64]:
        return (self.run_ends[1:] > self.run_ends[:-1]).nonzero()[0]

    @functools.cached_property
    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        runs, first = decompress(self.runs, self.run_ends[1:][self._encoded])
        return runs.cumsum(), first
