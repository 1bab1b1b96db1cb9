"""Masks of ROIs as COCO run-length encodings at the original size, one window at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from roiseg.data.rle import encode_window
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import paste_crop


def paste_rles(
    masks: Tensor, boxes: Boxes, size: tuple[int, int], within: Boxes | None = None, threshold: float = 0.5
) -> Iterator[dict[str, Any]]:
    """Where are pasted probabilities `threshold` or more? Yields one encoding after another.

    Computes and holds no more than the pixels that one box touches, however large the image is and
    however many ROIs there are. Equal to encoding `roiseg.geometry.paste.binary_mask` of each.

    Args:
        masks: [R, h, w] probabilities on a grid over each box, on the CPU.
        boxes: [R, 4] in pixels of the image.
        size: (H, W) of the image.
        within: [R, 4] boxes outside of which the image is 0, too.
        threshold: probability above 0.

    Yields:
        `{"size": [H, W], "counts": bytes}` of each ROI, compressed.
    """
    limits = boxes if within is None else within
    for mask, box, limit in zip(masks, boxes, limits, strict=True):
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            values, window = paste_crop(mask, box, size, within=limit)
        yield encode_window(values >= threshold, window, size)
