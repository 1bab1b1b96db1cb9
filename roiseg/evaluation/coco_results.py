"""Predicted masks as COCO results, at the resolution of the original images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.data.batch import RoiBatch
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import paste_crop
from roiseg.geometry.rle import encode_window


def mask_quality(values: NDArray[np.float32], threshold: float = 0.5) -> float:
    """How sure a model is of a mask: mean probability over its pixels; 0 for an empty one.

    `maskness` of Wang et al. (SOLOv2, 2020).

    Args:
        values: [h, w] probabilities.
        threshold: probability from which on a pixel is mask.
    """
    inside = values[values >= threshold]
    return float(inside.mean(dtype=np.float64)) if inside.size else 0.0


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


def batch_results(
    probabilities: Tensor, batch: RoiBatch, windows: Tensor, by_quality: bool, category_id: int
) -> Iterator[dict[str, Any]]:
    """One COCO result a ROI of a batch, in order; 0.5 and above are mask, nothing outside the ROI is.

    Args:
        probabilities: [R, h, w] of the target.
        batch: its ROIs and images.
        windows: [R, 4] boxes in input pixels the probabilities are stretched over.
        by_quality: the score is `mask_quality`; else 1, as that of an annotated box.
        category_id: of all ROIs.
    """
    maps = iter(probabilities.detach().float().cpu())
    frames, rois = batch.original_boxes(windows), batch.original_boxes()
    for sample, boxes, limits in zip(batch.samples, frames, rois, strict=True):
        for box, limit in zip(boxes, limits, strict=True):
            with torch.autocast("cpu", enabled=False):
                values, window = paste_crop(next(maps), box, sample.original_size, within=limit)
            score = mask_quality(values) if by_quality else 1.0
            rle = encode_window(values >= 0.5, window, sample.original_size)
            yield coco_result(sample.image_id, category_id, limit, score, rle)


def _text(counts: bytes | str) -> str:
    return counts if isinstance(counts, str) else counts.decode("ascii")
