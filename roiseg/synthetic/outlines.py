"""COCO segmentations and boxes of pixel masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

# boundary edges of a pixel, walked with the mask on the right hand. Direction (dx, dy): (row and column of
# the pixel beyond the edge, row and column of the corner where the edge starts), relative to the pixel
_EDGES = {
    (1, 0): ((-1, 0), (0, 0)),
    (0, 1): ((0, 1), (0, 1)),
    (-1, 0): ((1, 0), (1, 1)),
    (0, -1): ((0, -1), (1, 0)),
}


def segmentation(mask: np.ndarray) -> list[list[int]] | dict[str, Any]:
    """Return a COCO segmentation that pycocotools decodes to exactly `mask`.

    Args:
        mask: bool `[H, W]`, not empty.

    Returns:
        Polygons along the pixels' edges, one for each connected part; where a part has a hole, which
        polygons cannot express, an uncompressed RLE `{"counts": [...], "size": [H, W]}`.
    """
    return rle(mask) if has_hole(mask) else polygons(mask)


def bounding_box(mask: np.ndarray) -> list[int]:
    """Return the tight `[x, y, width, height]` of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def has_hole(mask: np.ndarray) -> bool:
    """Tell whether the mask encloses background (also connected across corners)."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    return cv2.connectedComponents(outside, connectivity=8)[0] > 2


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask as uncompressed run lengths, column by column, starting with background."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def polygons(mask: np.ndarray) -> list[list[int]]:
    """Trace the edges of the mask's pixels; flat `[x1, y1, x2, y2, ...]` for each part."""
    following = _edges(mask)
    traced = []
    while following:
        start = next(iter(following))
        direction = following[start][0]
        corner, corners = start, list[tuple[int, int]]()
        while corner in following:
            heading = _take(following, corner, direction)
            if heading != direction or not corners:
                corners.append(corner)
            direction = heading
            corner = (corner[0] + heading[0], corner[1] + heading[1])
            if corner == start and _closed(following, corner, direction):
                break
        traced.append([value for corner in corners for value in corner])
    return traced


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Map each corner (x, y) to the directions of the boundary edges that start there."""
    padded = np.pad(mask, 1)
    starts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    height, width = mask.shape
    for direction, ((beyond_y, beyond_x), (corner_y, corner_x)) in _EDGES.items():
        beyond = padded[1 + beyond_y : 1 + beyond_y + height, 1 + beyond_x : 1 + beyond_x + width]
        rows, columns = np.nonzero(mask & ~beyond)
        for x, y in zip((columns + corner_x).tolist(), (rows + corner_y).tolist(), strict=True):
            starts.setdefault((x, y), []).append(direction)
    return starts


def _take(
    following: dict[tuple[int, int], list[tuple[int, int]]], corner: tuple[int, int], heading: tuple[int, int]
) -> tuple[int, int]:
    """Remove and return the next edge; where two parts touch, turn right to stay on the same pixel."""
    choices = following[corner]
    right = (-heading[1], heading[0])
    chosen = right if right in choices else choices[0]
    choices.remove(chosen)
    if not choices:
        del following[corner]
    return chosen


def _closed(
    following: dict[tuple[int, int], list[tuple[int, int]]], corner: tuple[int, int], heading: tuple[int, int]
) -> bool:
    """Tell whether the loop that has returned to its start ends here."""
    right = (-heading[1], heading[0])
    return right not in following.get(corner, [])
