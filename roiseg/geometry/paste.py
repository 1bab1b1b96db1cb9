"""Paste ROI-frame maps back onto the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.geometry.roi_align import centers_inside, paste_weights

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels; x2 and y2 excluded


def back_to_front(areas: Sequence[int]) -> list[int]:
    """Return the drawing order of instances: the smallest mask last, so that it is never hidden.

    Used by every output in which a pixel shows a single instance.

    Args:
        areas: pixels of each mask.
    """
    return sorted(range(len(areas)), key=lambda index: -areas[index])


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], within: Tensor | None = None) -> Tensor:
    """Stretch each mask bilinearly over its box on a canvas; 0 outside the box. Exportable to ONNX.

    Args:
        masks: [R, h, w] probabilities on a grid over the box.
        boxes: [R, 4] x1, y1, x2, y2 in pixels of the canvas.
        size: (H, W) of the canvas.
        within: [R, 4] boxes outside of which the canvas is also 0.

    Returns:
        [R, H, W].
    """
    height, width = size
    y = torch.arange(height, device=masks.device)
    x = torch.arange(width, device=masks.device)
    boxes = boxes.float()  # half precision cannot represent single pixels above 256 or 2048
    rows = paste_weights(boxes[:, 1], boxes[:, 3], masks.shape[1], y)
    columns = paste_weights(boxes[:, 0], boxes[:, 2], masks.shape[2], x)
    if within is not None:
        within = within.float()
        rows = rows * centers_inside(within[:, 1], within[:, 3], y)[..., None]
        columns = columns * centers_inside(within[:, 0], within[:, 2], x)[..., None]
    return rows.to(masks.dtype) @ masks @ columns.to(masks.dtype).transpose(1, 2)


def paste_window(box: NDArray[np.float32], size: tuple[int, int]) -> Window:
    """Return the pixel window of a canvas of `size` (H, W) that `box` touches; may be empty."""
    height, width = size
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return x1, y1, max(x1, x2), max(y1, y2)


def paste_crop(
    mask: Tensor, box: NDArray[np.float32], size: tuple[int, int], within: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], Window]:
    """Paste one mask, computing only the pixels its box touches.

    Args:
        mask: [h, w] probabilities on a grid over the box, on the CPU.
        box: [4] in pixels of the canvas.
        size: (H, W) of the canvas.
        within: [4] box outside of which the canvas is also 0.

    Returns:
        The window's values [y2 - y1, x2 - x1] and the window x1, y1, x2, y2; equal to that part of
        `paste_masks`.
    """
    limits = box if within is None else within
    window = x1, y1, x2, y2 = paste_window(limits, size)
    y, x = torch.arange(y1, y2), torch.arange(x1, x2)
    edges, limit = (torch.as_tensor(b, dtype=torch.float32)[None] for b in (box, limits))
    rows = paste_weights(edges[:, 1], edges[:, 3], mask.shape[0], y)[0]
    columns = paste_weights(edges[:, 0], edges[:, 2], mask.shape[1], x)[0]
    rows = rows * centers_inside(limit[:, 1], limit[:, 3], y)[0, :, None]
    columns = columns * centers_inside(limit[:, 0], limit[:, 2], x)[0, :, None]
    return (rows @ mask.float() @ columns.T).numpy(), window


def largest(crops: Iterable[tuple[NDArray[np.float32], Window]], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return the index of the crop with the largest value at each pixel, of equal ones the first.

    Args:
        crops: values [y2 - y1, x2 - x1] and window x1, y1, x2, y2 of each.
        size: (H, W) of the image.

    Returns:
        [H, W]; -1 where no crop has a value above 0.
    """
    best, index = np.zeros(size, np.float32), np.full(size, -1, np.int32)
    for number, (values, (x1, y1, x2, y2)) in enumerate(crops):
        above = values > best[y1:y2, x1:x2]
        best[y1:y2, x1:x2][above] = values[above]
        index[y1:y2, x1:x2][above] = number
    return index


def owned(
    index: int,
    values: NDArray[np.float32],
    window: Window,
    owners: NDArray[np.int32] | None,
    threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """Return the mask of an instance within its window.

    Args:
        index: of the instance.
        values: [y2 - y1, x2 - x1]; the mask is where they are `threshold` or more ...
        window: x1, y1, x2, y2 of the values.
        owners: ... and where this, from `largest`, is `index`; None: masks may overlap.
        threshold: above 0.
    """
    mask = values >= threshold
    if owners is None:
        return mask
    x1, y1, x2, y2 = window
    return mask & (owners[y1:y2, x1:x2] == index)
