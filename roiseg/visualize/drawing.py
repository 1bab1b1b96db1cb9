"""Drawing primitives: each takes an RGB uint8 array and returns a new one; inputs are not modified."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.geometry.paste import back_to_front
from roiseg.visualize.canvas import (
    ROI_RED,
    Color,
    Image,
    Mask,
    blank,
    draw_text,
    rgb,
    text_strip,
    text_width,
)


def blend_masks(
    image: Image,
    masks: Mask,
    colors: NDArray[np.uint8],
    alpha: float = 0.5,
    areas: Sequence[int] | None = None,
) -> Image:
    """Tint masks [N, H, W] and draw their borders; where they overlap, the smallest is on top."""
    masks = np.asarray(masks, dtype=np.bool_)
    height, width = image.shape[:2]
    windows = [(0, 0, width, height)] * len(masks)
    return blend_crops(image, list(masks), windows, colors, alpha, areas)


def blend_crops(
    image: Image,
    crops: Sequence[Mask],
    windows: Sequence[tuple[int, int, int, int]],
    colors: NDArray[np.uint8],
    alpha: float = 0.5,
    areas: Sequence[int] | None = None,
) -> Image:
    """Tint masks that are stored as crops, as `blend_masks` does.

    Args:
        crops: N times bool [y2 - y1, x2 - x1].
        windows: N times x1, y1, x2, y2 in whole pixels within the image; masks are empty outside.
        colors: RGB uint8 [N, 3] or more rows.
        alpha: weight of the colour, 0 to 1.
        areas: N mask areas that decide the order, see `back_to_front`; None: the areas of `crops`.
    """
    result = image.copy()
    order = back_to_front([int(crop.sum()) for crop in crops] if areas is None else areas)
    for index in order:
        x1, y1, x2, y2 = windows[index]
        mask = crops[index]
        tint = np.asarray(colors[index], dtype=np.float32) * alpha
        pixels = image[y1:y2, x1:x2][mask]
        result[y1:y2, x1:x2][mask] = np.rint(pixels * np.float32(1 - alpha) + tint)
    for index in order:
        thickness = max(1, round(min(image.shape[:2]) / 300))
        _outline(result, crops[index], colors[index], thickness, windows[index][:2])
    return result


def draw_outlines(image: Image, masks: Mask, color: Color, thickness: int = 1) -> Image:
    """Draw the borders of masks [N, H, W] on an RGB uint8 [H, W, 3] image, `thickness` pixels wide."""
    result = image.copy()
    for mask in masks:
        _outline(result, mask, color, thickness)
    return result


def _outline(
    canvas: Image, mask: Mask, color: Color, thickness: int, corner: tuple[int, int] = (0, 0)
) -> None:
    """Draw the border of `mask` [h, w], whose top left pixel is `corner` x, y, INTO `canvas`."""
    if mask.any():
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner
        )
        cv2.drawContours(canvas, contours, -1, rgb(color), thickness, cv2.LINE_8)


def draw_boxes(image: Image, boxes: ArrayLike, color: Color = ROI_RED, thickness: int = 2) -> Image:
    """Draw box borders inward from the box edge, in the exact colour (no smoothing).

    Boxes are clipped to the image; boxes wholly outside or not finite are skipped. A box smaller than a pixel
    is drawn as one pixel.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of `image`; x2 and y2 are the edge, not the last pixel.
        thickness: width of the border in pixels.
    """
    result = image.copy()
    for x1, y1, x2, y2 in _pixel_boxes(boxes, image.shape):
        left, right, top, bottom = x1 + thickness, x2 - thickness, y1 + thickness, y2 - thickness
        result[y1:y2, x1 : min(left, x2)] = rgb(color)
        result[y1:y2, max(right, x1) : x2] = rgb(color)
        result[y1 : min(top, y2), x1:x2] = rgb(color)
        result[max(bottom, y1) : y2, x1:x2] = rgb(color)
    return result


def draw_labels(
    image: Image,
    boxes: ArrayLike,
    texts: Sequence[int | str],
    colors: NDArray[np.uint8],
    size: int = 10,
    inset: int = 2,
) -> Image:
    """Draw a number or short text on a small filled label at each box's top-left corner.

    A label stands on top of its box if there is room, else inside the corner of a large box, or beside or
    below a small one, so that tiny boxes stay visible. It avoids earlier labels and never leaves the image.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of `image`.
        texts: N numbers or texts.
        colors: RGB uint8 [N, 3] or more rows, the labels' fill.
        size: height of the digits in pixels.
        inset: distance in pixels of a label inside the corner from the box edge (the width of its line).
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    result = image.copy()
    taken: list[tuple[int, int, int, int]] = []
    for box, text, color in zip(boxes, texts, colors[: len(boxes)], strict=True):
        for pixel_box in _pixel_boxes(box, image.shape):
            label = _label(str(text), color, size)
            x, y = _label_place(pixel_box, label.shape, image.shape, taken, inset)
            taken.append((x, y, x + label.shape[1], y + label.shape[0]))
            target = result[y : y + label.shape[0], x : x + label.shape[1]]
            target[...] = label[: target.shape[0], : target.shape[1]]
    return result


def add_caption(image: Image, text: str, height: int, below: bool = False, centre: bool = False) -> Image:
    """Add a strip with one line of text; text too long loses its middle, non-ASCII becomes '?'.

    Returns:
        RGB uint8 [H + height, W, 3].
    """
    strip = text_strip(text, height, image.shape[1], centre)
    return np.concatenate([image, strip] if below else [strip, image])


def _pixel_boxes(boxes: ArrayLike, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Round finite boxes that touch the image out to whole pixels x1, y1, x2, y2, never empty."""
    height, width = shape[:2]
    pixel_boxes = []
    for x1, y1, x2, y2 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        if not np.isfinite([x1, y1, x2, y2]).all() or x1 >= width or y1 >= height or x2 < 0 or y2 < 0:
            continue
        left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
        right, bottom = min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
        pixel_boxes.append((left, top, max(right, left + 1), max(bottom, top + 1)))
    return pixel_boxes


def _label(text: str, color: Color, size: int) -> Image:
    """Return a filled label with black or white text, whichever is readable on `color`."""
    red, green, blue = rgb(color)
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)
    margin = max(2, size // 4)
    label = blank(size + 2 * margin, text_width(text, size) + 2 * margin, color)
    draw_text(label, text, margin, margin, size, ink)
    return label


def _label_place(
    box: tuple[int, int, int, int],
    label: tuple[int, ...],
    shape: tuple[int, ...],
    taken: list[tuple[int, int, int, int]],
    inset: int,
) -> tuple[int, int]:
    """Return left and top of a label: the first free place inside the image, else the first place inside."""
    (x1, y1, x2, y2), (height, width) = box, label[:2]
    corner = (x1 + inset, y1 + inset)
    beside = [(x2, y1), (x1 - width, y1), (x1, y2)]
    roomy = x2 - x1 >= 2 * width and y2 - y1 >= 2 * height
    places = [(x1, y1 - height), *([corner] if roomy else []), (x1 + width, y1 - height), *beside, corner]
    inside = [(x, y) for x, y in places if 0 <= x <= shape[1] - width and 0 <= y <= shape[0] - height]
    for x, y in inside:
        if all(x + width <= a or x >= c or y + height <= b or y >= d for a, b, c, d in taken):
            return x, y
    x, y = inside[0] if inside else corner
    return min(max(x, 0), max(shape[1] - width, 0)), min(max(y, 0), max(shape[0] - height, 0))
