"""Predicted masks as COCO results, at the resolution of the original images."""

from __future__ import annotations

from typing import Any

from roiseg.geometry.boxes import Boxes
from roiseg.geometry.rle import encode_window
from roiseg.metrics.instance import PastedMask


def coco_result(
    image_id: int, category_id: int, box: Boxes, score: float, rle: dict[str, Any]
) -> dict[str, Any]:
    """One COCO result.

    Args:
        image_id: of its image.
        category_id: of its instance.
        box: [4] x1, y1, x2, y2 in original pixels.
        score: 0..1.
        rle: of the mask at the image's size; `counts` as bytes or text.
    """
    x1, y1, x2, y2 = (round(float(edge), 3) for edge in box)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
        "score": round(score, 6),
        "segmentation": {"size": list(rle["size"]), "counts": _text(rle["counts"])},
    }


def mask_result(pasted: PastedMask, category_id: int, score: float) -> dict[str, Any]:
    """Return a pasted mask as a COCO result with its ROI as box."""
    size = pasted.sample.original_size
    rle = encode_window(pasted.mask, pasted.window, size)
    return coco_result(pasted.sample.image_id, category_id, pasted.roi, score, rle)


def _text(counts: bytes | str) -> str:
    return counts if isinstance(counts, str) else counts.decode("ascii")
