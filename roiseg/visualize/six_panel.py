"""The six-panel figure: from the image to its instances, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from roiseg.visualize.canvas import (
    SEPARATOR,
    Image,
    Mask,
    blank,
    centred,
    check_image,
    fitted_size,
    resize_image,
    resize_mask,
    scale_boxes,
    text_width,
)
from roiseg.visualize.drawing import blend_masks, caption, draw_boxes, draw_numbers
from roiseg.visualize.palette import ROI_RED, instance_colors

_LINE = 3  # separator, pixels
_DARK = (32, 34, 40)  # behind masks that stand alone
_NARROWEST = 0.5  # of a panel's height; a panel's title must be readable


def six_panel(
    image: Image,
    boxes: ArrayLike,
    scores: Sequence[float],
    masks: Iterable[Mask],
    label: str = "person",
    panel: tuple[int, int] = (480, 640),
) -> Image:
    """Input, boxes with scores, masks; input with masks, with labels too, with everything.

    Args:
        image: RGB uint8 [H, W, 3].
        boxes: [N, 4] x1, y1, x2, y2 in pixels of `image`.
        scores: N, 0 to 1.
        masks: N times bool [H, W]; one is held at a time.
        label: what an instance is; its number follows, and stands alone on boxes that are narrower.
        panel: (height, width) in pixels that a panel is fitted into, with the image's aspect.

    Returns:
        RGB uint8, two rows of three panels with titles.
    """
    check_image(image)
    size = fitted_size(image.shape[1], image.shape[0], panel[1], panel[0])
    corners = scale_boxes(boxes, image.shape, size)
    small, areas = [], []  # in the order of the masks' own sizes, which small ones may round to equal ones
    for mask in masks:
        small.append(resize_mask(mask, size))
        areas.append(int(mask.sum()))
    shapes = np.array(small, dtype=np.bool_).reshape(len(corners), size[1], size[0])
    colors = instance_colors(len(corners))
    reds = np.full((len(corners), 3), ROI_RED, dtype=np.uint8)
    shares = [f"{score:.2f}" for score in scores]
    thickness, letters = max(1, round(size[1] / 240)), max(7, round(panel[0] / 56))

    picture = resize_image(image, size)
    boxed = draw_boxes(picture, corners, ROI_RED, thickness)
    tinted = blend_masks(picture, shapes, colors, areas=areas)
    everything = draw_boxes(tinted, corners, ROI_RED, thickness)
    names, facts = [], []
    for number, ((x1, _, x2, _), share) in enumerate(zip(corners, shares, strict=True), 1):
        name = f"{label} {number}"
        names.append(_longest((name, f"{number}"), x2 - x1, letters))
        facts.append(_longest((f"{name}: {share}", f"{number}: {share}", f"{number}"), x2 - x1, letters))
    panels = {
        "input": picture,
        "boxes and scores": draw_numbers(boxed, corners, shares, reds, letters, thickness),
        "masks": blend_masks(blank(size[1], size[0], _DARK), shapes, colors, alpha=0.85, areas=areas),
        "input + masks": tinted,
        "input + masks + labels": draw_numbers(tinted, corners, names, colors, letters),
        "all": draw_numbers(everything, corners, facts, colors, letters, thickness),
    }
    titled = [_titled(title, shown, panel) for title, shown in panels.items()]
    rows = [_joined(titled[:3], axis=1), _joined(titled[3:], axis=1)]
    return _joined(rows, axis=0)


def _longest(texts: Sequence[str], width: float, letters: int) -> str:
    """The first text that is no wider than a box, so that labels of small people do not hide others."""
    return next((text for text in texts if text_width(text, letters) <= width), texts[-1])


def _titled(title: str, picture: Image, panel: tuple[int, int]) -> Image:
    width = max(picture.shape[1], round(panel[0] * _NARROWEST))
    return caption(
        centred(picture, picture.shape[0], width), title, max(20, round(panel[0] / 18)), centre=True
    )


def _joined(pictures: Sequence[Image], axis: int) -> Image:
    """Images beside (1) or below (0) each other, with lines between them."""
    height, width = pictures[0].shape[:2]
    line = blank(height, _LINE, SEPARATOR) if axis else blank(_LINE, width, SEPARATOR)
    parts = [part for picture in pictures for part in (line, picture)][1:]
    return np.concatenate(parts, axis=axis)
