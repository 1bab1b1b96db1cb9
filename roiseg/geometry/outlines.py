"""The outlines of one image's instances, rasterized directly onto any grid."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.geometry.rasterize import Grids, Planes, polygon_planes, run_planes
from roiseg.geometry.rle import decompress


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
            bits [B, G, n, w], see `roiseg.geometry.rasterize`.
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
