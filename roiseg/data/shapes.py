"""One instance's outline, and how it is rasterised straight onto any grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.geometry.letterbox import Transform

# The official tool is exact to a tenth of a cell, which shows on small grids: outlines are drawn this
# many times finer (odd, so that the middle of a cell is one of the finer cells).
_FINER = 3


@dataclass(frozen=True)
class Polygons:
    """Outline as one or more polygons, each [P, 2] (x, y) normalised to 0..1 of the image."""

    parts: list[NDArray[np.float32]]
    size: tuple[int, int]  # (H, W) of the image in pixels

    def pixels(self) -> list[NDArray[np.float64]]:
        """The parts in original pixels, to the thousandth of a pixel that float32 keeps.

        The official tool rounds to fifths of a pixel; a coordinate such as 10.1 lies on the edge
        between two, and must come back as 10.1 for its mask to be the official one.
        """
        height, width = self.size
        return [(part.astype(np.float64) * (width, height)).round(3) for part in self.parts]

    def rasterize(self, to_grid: Transform, grid: tuple[int, int]) -> NDArray[np.uint8]:
        """Return 0/1 [h, w]: is the cell's centre inside any part?

        Args:
            to_grid: original pixels -> grid cells.
            grid: (h, w) of the grid.
        """
        height, width = grid
        flat = [(to_grid.points(part).astype(np.float64) * _FINER).ravel() for part in self.pixels()]
        fine = coco_mask.frPyObjects(flat, height * _FINER, width * _FINER)
        return coco_mask.decode(coco_mask.merge(fine))[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]

    def rle(self) -> dict[str, Any]:
        """COCO run-length encoding at the image's own size, by the official tool."""
        return coco_mask.merge(coco_mask.frPyObjects([part.ravel() for part in self.pixels()], *self.size))


@dataclass(frozen=True)
class RunLength:
    """Outline as COCO run-length encoding at the image's own size."""

    counts: bytes
    size: tuple[int, int]  # (H, W) of the image in pixels

    def rasterize(self, to_grid: Transform, grid: tuple[int, int]) -> NDArray[np.uint8]:
        """Return 0/1 [h, w]: is the original pixel under the cell's centre inside?"""
        height, width = self.size
        back = to_grid.inverse()
        x = np.floor((np.arange(grid[1]) + 0.5) * back.scale_x + back.shift_x).astype(int)
        y = np.floor((np.arange(grid[0]) + 0.5) * back.scale_y + back.shift_y).astype(int)
        inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
        full = coco_mask.decode(self.rle())
        picked = full[np.ix_(np.clip(y, 0, height - 1), np.clip(x, 0, width - 1))]
        return picked * np.outer(inside_y, inside_x).astype(np.uint8)

    def rle(self) -> dict[str, Any]:
        """COCO run-length encoding at the image's own size."""
        return {"size": list(self.size), "counts": self.counts}


Shape = Polygons | RunLength
