"""The transform between original pixels and the extractor's input pixels, and its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.geometry.boxes import Boxes, as_boxes


@dataclass(frozen=True)
class Transform:
    """Axis-aligned affine map: input = scale * original + shift, in continuous pixels.

    `scale_x < 0` flips left to right. Letterbox, stretch, flip, zoom, shift and crop are all of this form, so
    polygons, boxes and ROIs follow the image exactly.
    """

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float

    @property
    def scale(self) -> float:
        """Return the input pixels per original pixel (geometric mean of both axes)."""
        return math.sqrt(abs(self.scale_x * self.scale_y))

    def points(self, points: ArrayLike) -> NDArray[np.float32]:
        """Transform points [..., 2] (x, y)."""
        scale = np.array([self.scale_x, self.scale_y], np.float32)
        shift = np.array([self.shift_x, self.shift_y], np.float32)
        return np.asarray(points, np.float32) * scale + shift

    def boxes(self, boxes: ArrayLike) -> Boxes:
        """Transform boxes [N, 4], keeping x1 <= x2 under flips."""
        corners = self.points(as_boxes(boxes).reshape(-1, 2, 2))
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def inverse(self) -> Transform:
        """Return the transform from input to original pixels."""
        return Transform(
            1 / self.scale_x, 1 / self.scale_y, -self.shift_x / self.scale_x, -self.shift_y / self.scale_y
        )


@dataclass(frozen=True)
class Letterbox:
    """Fits an image of any size into the extractor's input."""

    size: tuple[int, int]  # (H, W) of the input in pixels
    # where the resized image lies in the input: "center" (YOLOv5 to v9) or "topleft" (YOLOX)
    align: Literal["center", "topleft"] = "center"
    pad_value: int = 114  # grey level 0..255 of the padding
    keep_aspect: bool = True  # False stretches the image over the whole input without padding

    def fit(self, height: int, width: int) -> Transform:
        """Return the transform that fits a whole image of `height` x `width` pixels into the input."""
        out_h, out_w = self.size
        if not self.keep_aspect:
            return Transform(out_w / width, out_h / height, 0.0, 0.0)
        ratio = min(out_h / height, out_w / width)
        new_h, new_w = max(1, int(height * ratio + 1e-6)), max(1, int(width * ratio + 1e-6))
        centered = self.align == "center"
        top = (out_h - new_h) // 2 if centered else 0
        left = (out_w - new_w) // 2 if centered else 0
        return Transform(new_w / width, new_h / height, float(left), float(top))

    def apply(self, image: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
        """Render `image` [h, w, 3] into the input [H, W, 3]; the rest is padding.

        The resized image is placed at whole pixels: transforms made by `fit` and by the
        augmentations have whole resized sizes and shifts, so the image agrees with the boxes.
        """
        height, width = image.shape[:2]
        new_w = max(1, round(abs(transform.scale_x) * width))
        new_h = max(1, round(transform.scale_y * height))
        resized: NDArray[Any] = image
        if (new_h, new_w) != (height, width):
            resized = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        left = transform.shift_x
        if transform.scale_x < 0:
            resized = resized[:, ::-1]
            left -= new_w
        return _place(resized, round(transform.shift_y), round(left), self.size, self.pad_value)


def _place(
    image: NDArray[np.uint8], top: int, left: int, size: tuple[int, int], pad_value: int
) -> NDArray[np.uint8]:
    """Place `image` at (top, left), which may be negative, on a padded canvas of `size`."""
    canvas = np.full((*size, image.shape[2]), pad_value, np.uint8)
    y1, x1 = max(0, top), max(0, left)
    y2, x2 = min(size[0], top + image.shape[0]), min(size[1], left + image.shape[1])
    if y1 < y2 and x1 < x2:
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    return canvas
