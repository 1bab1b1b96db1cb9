"""Bilinear reading and pasting in plain loops, the reference of all that do it faster."""

import numpy as np

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

    The boxes are in the pixels that `transform` makes of the canvas'; every pixel looks up its own place.
    """
    rows, columns = mask.shape
    x1, y1, x2, y2 = (float(v) for v in box)
    canvas = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            x = transform.scale_x * (column + 0.5) + transform.shift_x
            y = transform.scale_y * (row + 0.5) + transform.shift_y
            limits = [box] if within is None else [box, within]
            if all(left <= x < right and top <= y < bottom for left, top, right, bottom in limits):
                u, v = (x - x1) / (x2 - x1) * columns - 0.5, (y - y1) / (y2 - y1) * rows - 0.5
                canvas[row, column] = read(mask[None], u, v)[0]
    return canvas
