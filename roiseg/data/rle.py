"""COCO run-length strings, parsed with every bound checked.

pycocotools trusts its input: counts that do not fit the image write outside its buffers. What comes
from a file passes through here first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def checked_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> bytes:
    """Validate an uncompressed or compressed RLE and return its compressed counts.

    Args:
        segmentation: `{"counts": [..] | str | bytes, "size": [H, W]}`.
        size: (H, W) the encoding must have.

    Raises:
        ValueError: wrong size, negative runs, or runs that do not add up to H * W.
    """
    found = segmentation.get("size")
    if not isinstance(found, (list, tuple)) or list(found) != list(size):
        raise ValueError(f"RLE size {found!r} is not the image's [H, W] {list(size)}")
    if size[0] * size[1] >= 1 << 32:
        raise ValueError(f"RLE of {size[0]}x{size[1]} pixels is more than its 32-bit runs can count")
    counts = segmentation.get("counts")
    if isinstance(counts, (str, bytes)):
        runs = _decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    elif isinstance(counts, list) and all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
        runs = counts
    else:
        raise ValueError("RLE counts must be a list of whole numbers or a string")
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"RLE runs add up to {sum(runs)}, the image has {size[0] * size[1]} pixels")
    return coco_mask.frPyObjects({"size": list(size), "counts": list(runs)}, *size)["counts"]


def _decompress(text: bytes) -> list[int]:
    """Runs of a compressed RLE.

    A character holds 5 bits of a signed number and a flag that more follow; from the fourth number
    on it is the difference to the run two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        code = character - 48
        if not 0 <= code < 64 or shift > 35:
            raise ValueError("RLE string holds characters no encoder writes")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("RLE string ends in the middle of a number")
    return runs


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Binary mask [H, W] -> compressed COCO RLE."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Compressed COCO RLE -> bool [H, W]."""
    return coco_mask.decode(rle).astype(bool)
