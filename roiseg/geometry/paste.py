"""Paste: move ROI-frame maps back onto the image they came from."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.geometry.interpolation import paste_weights


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch each mask over its box on a canvas, bilinearly; 0 outside the box. Exportable.

    Args:
        masks: [R, h, w] probabilities on a grid over the box.
        boxes: [R, 4] x1, y1, x2, y2 in pixels of the canvas.
        size: (H, W) of the canvas.

    Returns:
        [R, H, W].
    """
    height, width = size
    y = torch.arange(height, device=masks.device)
    x = torch.arange(width, device=masks.device)
    boxes = boxes.float()  # half precision knows no single pixels above 256 or 2048
    rows = paste_weights(boxes[:, 1], boxes[:, 3], masks.shape[1], y).to(masks.dtype)
    columns = paste_weights(boxes[:, 0], boxes[:, 2], masks.shape[2], x).to(masks.dtype)
    return rows @ masks @ columns.transpose(1, 2)


def paste_window(box: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels x1, y1, x2, y2 of a canvas of `size` (H, W) that `box` touches; may be empty."""
    height, width = size
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return x1, y1, max(x1, x2), max(y1, y2)


def paste_crop(
    mask: Tensor, box: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[int, int, int, int]]:
    """Paste one mask, computing only the pixels its box touches.

    Args:
        mask: [h, w] probabilities on a grid over the box, on the CPU.
        box: [4] in pixels of the canvas.
        size: (H, W) of the canvas.

    Returns:
        The window's values [y2 - y1, x2 - x1] and the window x1, y1, x2, y2; equal to that part of
        `paste_masks`.
    """
    window = x1, y1, x2, y2 = paste_window(box, size)
    edges = torch.as_tensor(box, dtype=torch.float32)[None]
    rows = paste_weights(edges[:, 1], edges[:, 3], mask.shape[0], torch.arange(y1, y2))[0]
    columns = paste_weights(edges[:, 0], edges[:, 2], mask.shape[1], torch.arange(x1, x2))[0]
    return (rows @ mask.float() @ columns.T).numpy(), window


def binary_mask(
    mask: Tensor, box: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.5
) -> NDArray[np.bool_]:
    """Paste one mask [h, w] on a canvas of `size` (H, W): where is its probability `threshold` or more?"""
    values, (x1, y1, x2, y2) = paste_crop(mask, box, size)
    canvas = np.zeros(size, bool)
    canvas[y1:y2, x1:x2] = values >= threshold
    return canvas
