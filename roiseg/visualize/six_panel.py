"""The six-panel figure: from the input image to its instances, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from roiseg.visualize.canvas import (
    SEPARATOR,
    Image,
    Mask,
    blank,
    center,
    fitted_size,
    resize_image,
    resize_mask,
    scale_boxes,
    text_width,
)
from roiseg.visualize.drawing import add_caption, blend_masks, draw_boxes, draw_labels
from roiseg.visualize.palette import ROI_RED, instance_colors

_LINE = 3  # separator, pixels
_DARK = (32, 34, 40)  # behind the masks without an image
_MIN_WIDTH = 0.5  # of a panel's height, so that its title is readable


def six_panel(
    image: Image,
    boxes: ArrayLike,
    scores: Sequence[float],
    masks: Iterable[Mask],
    label: str = "person",
    panel: tuple[int, int] = (480, 640),
) -> Image:
    """Draw input, boxes with scores, masks; input with masks, with labels, with everything.

    Args:
        image: RGB uint8 [H, W, 3].
        boxes: [N, 4] x1, y1, x2, y2 in pixels of `image`.
        scores: N, 0 to 1.
        masks: N times bool [H, W]; only one is in memory at a time.
        label: name of an instance, followed by its number; narrow boxes only get the number.
        panel: (height, width) in pixels that each panel is fitted into, keeping the image's aspect.

    Returns:
        RGB uint8, two rows of three panels with titles.
    """
    size = fitted_size(image.shape[1], image.shape[0], panel[1], panel[0])
    corners = scale_boxes(boxes, image.shape, size)
    small, areas = [], []  # areas at full size: scaled-down masks may tie
    for mask in masks:
        small.append(resize_mask(mask, size))
        areas.append(int(mask.sum()))
    shapes = np.array(small, dtype=np.bool_).reshape(len(corners), size[1], size[0])
    colors = instance_colors(len(corners))
    reds = np.full((len(corners), 3), ROI_RED, dtype=np.uint8)
    numbers = [f"{score:.2f}" for score in scores]
    thickness, letters = max(1, round(size[1] / 240)), max(7, round(panel[0] / 56))

    resized = resize_image(image, size)
    boxed = draw_boxes(resized, corners, ROI_RED, thickness)
    tinted = blend_masks(resized, shapes, colors, areas=areas)
    everything = draw_boxes(tinted, corners, ROI_RED, thickness)
    names, scored = [], []
    for i, ((x1, _, x2, _), score) in enumerate(zip(corners, numbers, strict=True), 1):
        names.append(_longest((f"{label} {i}", f"{i}"), x2 - x1, letters))
        scored.append(_longest((f"{label} {i}: {score}", f"{i}: {score}", f"{i}"), x2 - x1, letters))
    panels = {
        "input": resized,
        "boxes and scores": draw_labels(boxed, corners, numbers, reds, letters, thickness),
        "masks": blend_masks(blank(size[1], size[0], _DARK), shapes, colors, alpha=0.85, areas=areas),
        "input + masks": tinted,
        "input + masks + labels": draw_labels(tinted, corners, names, colors, letters),
        "all": draw_labels(everything, corners, scored, colors, letters, thickness),
    }
    titled = [_titled(title, content, panel) for title, content in panels.items()]
    rows = [_joined(titled[:3], axis=1), _joined(titled[3:], axis=1)]
    return _joined(rows, axis=0)


def _longest(texts: Sequence[str], width: float, letters: int) -> str:
    """Return the first text that fits a box, so that labels of small persons do not hide others."""
    return next((text for text in texts if text_width(text, letters) <= width), texts[-1])


def _titled(title: str, image: Image, panel: tuple[int, int]) -> Image:
    width = max(image.shape[1], round(panel[0] * _MIN_WIDTH))
    return add_caption(
        center(image, image.shape[0], width), title, max(20, round(panel[0] / 18)), centre=True
    )


def _joined(images: Sequence[Image], axis: int) -> Image:
    """Join images side by side (1) or stacked (0), with separators between them."""
    height, width = images[0].shape[:2]
    line = blank(height, _LINE, SEPARATOR) if axis else blank(_LINE, width, SEPARATOR)
    parts = [part for image in images for part in (line, image)][1:]
    return np.concatenate(parts, axis=axis)
