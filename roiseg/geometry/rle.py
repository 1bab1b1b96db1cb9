"""Parse and encode COCO run-length strings with all bounds checked.

pycocotools trusts its input: counts that do not match the image write outside its buffers. RLEs from a file
are checked here first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from roiseg.geometry.paste import Window

_MAX_CHARACTERS = 7  # per number: 35 bits hold the difference of two 32-bit runs


def checked_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> bytes:
    """Validate an uncompressed or compressed RLE and return its compressed counts.

    Args:
        segmentation: `{"counts": [..] | str | bytes, "size": [H, W]}`.
        size: required (H, W) of the encoding.

    Raises:
        ValueError: wrong size, negative runs, or runs that do not add up to H * W.
    """
    found = segmentation.get("size")
    if not isinstance(found, (list, tuple)) or list(found) != list(size):
        raise ValueError(f"RLE size {found!r} is not the image's [H, W] {list(size)}")
    if size[0] * size[1] >= 1 << 32:
        raise ValueError(f"RLE of {size[0]}x{size[1]} pixels is too large for 32-bit run lengths")
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
        runs = decompress(np.frombuffer(text, np.uint8), [len(text)])[0].tolist()
    elif isinstance(counts, list) and all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
        runs = counts
    else:
        raise ValueError("RLE counts must be a list of whole numbers or a string")
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"RLE runs add up to {sum(runs)}, the image has {size[0] * size[1]} pixels")
    return _compress(runs, size)["counts"]


def decompress(text: NDArray[np.uint8], ends: Iterable[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decompress n RLEs whose counts are concatenated.

    A character holds 5 bits of a signed number and a continuation flag; from the fourth number of an RLE on,
    a number is the difference to the run two positions before.

    Args:
        ends: [n] where each RLE ends in `text`.

    Returns:
        The runs, and the start [n + 1] of each RLE in them.

    Raises:
        ValueError: an invalid character or number, or an RLE ends in the middle of a number.
    """
    code = text - np.uint8(48)
    numbers = (code < 32).nonzero()[0]  # the last character of each
    stops = np.zeros(len(numbers) + 1, np.int64)
    stops[1:] = numbers + 1
    start, length = stops[:-1], stops[1:] - stops[:-1]
    cuts = np.array([0, *ends])
    first = stops.searchsorted(cuts)
    whole = np.array_equal(stops.take(first, mode="clip"), cuts)
    if code.max(initial=0) > 63 or length.max(initial=0) > _MAX_CHARACTERS or not whole:
        raise ValueError("RLE string has an invalid character or number, or ends in the middle of a number")
    place = np.arange(len(code)) - start.repeat(length)
    runs = np.add.reduceat((code & 31).astype(np.int64) << 5 * place, start)
    runs -= (code[numbers] >> 4 & 1).astype(np.int64) << 5 * length
    for a, b in itertools.pairwise(first.tolist()):
        for differences in (runs[a + 1 : b : 2], runs[a + 2 : b : 2]):
            np.add.accumulate(differences, out=differences)
    return runs, first


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encode a binary mask [H, W] as compressed COCO RLE."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_window(mask: NDArray[np.bool_], window: Window, size: tuple[int, int]) -> dict[str, Any]:
    """Encode an image of `size` (H, W) that is 0 outside a window as compressed COCO RLE.

    Args:
        mask: [y2 - y1, x2 - x1] content of the window.
        window: x1, y1, x2, y2 in pixels, within the image.
        size: (H, W) of the image.
    """
    x1, y1, x2, y2 = window
    if not mask.size:
        return _compress([size[0] * size[1]], size)
    columns = np.zeros(1 + (x2 - x1) * (y2 - y1 + 1), bool)  # column by column, separated by a 0
    columns[1:].reshape(x2 - x1, y2 - y1 + 1)[:, :-1] = mask.T
    column, row = np.divmod(np.flatnonzero(columns[1:] != columns[:-1]), y2 - y1 + 1)
    edges = (x1 + column) * size[0] + y1 + row
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # the end of a column and the start of the next
    edges = np.delete(edges, np.append(2 * joined + 1, 2 * joined + 2))
    runs = np.diff(edges, prepend=0, append=size[0] * size[1]).tolist()
    return _compress(runs if runs[-1] else runs[:-1], size)


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Decode compressed COCO RLE to bool [H, W]."""
    return coco_mask.decode(rle).astype(bool)


def decode_window(rle: dict[str, Any], window: Window) -> NDArray[np.bool_]:
    """Decode the window x1, y1, x2, y2 (pixels, within the image) of an RLE, from its own columns only."""
    x1, y1, x2, y2 = window
    height = rle["size"][0]
    runs, _ = decompress(np.frombuffer(rle["counts"], np.uint8), [len(rle["counts"])])
    ends = np.clip(np.cumsum(runs), x1 * height, x2 * height)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, np.diff(ends, prepend=x1 * height))
    return columns.reshape(x2 - x1, height)[:, y1:y2].T


def bounds(rle: dict[str, Any]) -> Window:
    """Return the bounding window x1, y1, x2, y2 of a compressed RLE; empty if the mask is."""
    x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
    return x, y, x + width, y + height


def _compress(runs: list[int], size: tuple[int, int]) -> dict[str, Any]:
    return coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
