"""Bilinear reading in plain loops and pasting by torch, the reference of all that do it faster."""

import numpy as np
import torch
from torch.nn import functional as F

from roiseg.geometry.transform import Transform

IDENTITY = Transform(1.0, 1.0, 0.0, 0.0)


def read(plane, x, y):
    """Values [C] of a map [C, H, W] at cell coordinates (centres at whole numbers); the border's beyond it."""
    height, width = plane.shape[1:]
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = int(x), int(y)
    total = np.zeros(len(plane))
    for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if share_x * share_y:
                total += share_x * share_y * plane[:, row, column]
    return total


def paste(mask, box, size, within=None, transform=IDENTITY):
    """Stretch a mask [h, w] over a box on a canvas of `size` (H, W); 0 outside the box, and outside `within`.

    The boxes are in the pixels that `transform` makes of the canvas'.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    x = transform.scale_x * (np.arange(size[1]) + 0.5) + transform.shift_x
    y = transform.scale_y * (np.arange(size[0]) + 0.5) + transform.shift_y
    inside = np.ones(size, bool)
    for left, top, right, bottom in (box, box if within is None else within):
        inside &= np.outer((top <= y) & (y < bottom), (left <= x) & (x < right))
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without width
        grid = np.stack(np.meshgrid(2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1), axis=-1)
    given = torch.from_numpy(np.asarray(mask, float))[None, None], torch.from_numpy(grid)[None]
    values = F.grid_sample(*given, padding_mode="border", align_corners=False)
    return np.where(inside, values[0, 0].numpy(), 0)
