"""Rasterize outlines onto many small grids at once: a cell is set if its centre is inside.

A scanline rasterizer with one scanline per column, like COCO's run-length encoding. Where the centre line of
a column crosses an outline, all cells below change sides. A column of 64 cells is one word, so a crossing
costs one exclusive-or, and the result is exact (even-odd rule). Time and memory grow with the number of
crossings, not with the image or the number of cells.

Planes of bits are `uint64 [B, G, n, w]`: cell (y, x) of outline i on grid g is bit y % 64 of
`[y // 64, g, i, x]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.uint64]

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Grids:
    """G grids of one size laid over an image: cells = scale * pixels + shift.

    Args:
        scale: [G, 2] x, y; a negative x is a mirror image.
        shift: [G, 2] x, y.
        size: (h, w) in cells.
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    size: tuple[int, int]

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
        grids: the grids.

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
