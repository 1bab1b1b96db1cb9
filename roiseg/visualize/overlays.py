"""Figures of images: annotated above predicted masks, and the six steps from an input to its instances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.visualize.canvas import (
    ROI_RED,
    SEPARATOR,
    Image,
    Mask,
    blank,
    center,
    fitted_size,
    instance_colors,
    resize_image,
    resize_mask,
    scale_boxes,
    text_strip,
    text_width,
)
from roiseg.visualize.drawing import add_caption, blend_masks, draw_boxes, draw_labels

_WIDEST = 2.5  # a column is at most this many row heights wide ...
_NARROWEST = 0.5  # ... and at least this many, so that its title can be read
_LINE = 3  # separator, pixels


@dataclass(frozen=True)
class OverlayColumn:
    """One image of an overlay; everything in the pixels of the original image."""

    title: str  # file name; the number of ROIs is appended
    image: Image
    boxes: NDArray[np.floating]  # ROI boxes, float [N, 4] x1, y1, x2, y2
    truth: Mask  # annotated masks, bool [N, H, W]
    prediction: Mask  # predicted masks, bool [N, H, W], in the order of `boxes` and `truth`


def two_row_overlay(columns: Sequence[OverlayColumn], row_height: int = 480) -> Image:
    """Draw annotated masks (ROI boxes in red, numbers) above predicted masks.

    An instance has the same colour in both rows. Each image is scaled to `row_height`, keeping its aspect;
    columns are at most 2.5 and at least 0.5 row heights wide.

    Returns:
        One RGB uint8 image [2 * row_height + titles, ..., 3].
    """
    title_height = max(18, round(row_height / 15))
    parts = [_row_labels(row_height, title_height)]
    for column in columns:
        image = _draw_column(column, row_height, title_height)
        parts += [blank(image.shape[0], _LINE, SEPARATOR), image]
    return np.concatenate(parts, axis=1)


def _draw_column(column: OverlayColumn, row_height: int, title_height: int) -> Image:
    """Stack title, annotated masks, separator and predicted masks of one image."""
    height, width = column.image.shape[:2]
    size = fitted_size(width, height, round(_WIDEST * row_height), row_height)
    image = resize_image(column.image, size)
    colors = instance_colors(len(column.boxes))
    boxes = scale_boxes(column.boxes, column.image.shape, size)

    top = blend_masks(image, _resized(column.truth, size), colors)
    thickness, digits = max(1, round(row_height / 240)), max(8, round(row_height / 48))
    top = draw_boxes(top, boxes, ROI_RED, thickness)
    top = draw_labels(top, boxes, range(1, len(boxes) + 1), colors, digits, inset=thickness)
    bottom = blend_masks(image, _resized(column.prediction, size), colors)

    column_width = max(size[0], round(_NARROWEST * row_height))
    line = blank(_LINE, column_width, SEPARATOR)
    rows = [center(top, row_height, column_width), line, center(bottom, row_height, column_width)]
    count = "1 ROI" if len(boxes) == 1 else f"{len(boxes)} ROIs"
    return add_caption(np.concatenate(rows), f"{column.title} - {count}", title_height)


def _resized(masks: Mask, size: tuple[int, int]) -> Mask:
    """Return masks [N, H, W] at `size` = (width, height)."""
    resized = [resize_mask(mask, size) for mask in masks]
    return np.stack(resized) if resized else np.zeros((0, size[1], size[0]), dtype=np.bool_)


def _row_labels(row_height: int, width: int) -> Image:
    """Return the strip on the left with the names of the rows, reading upwards."""
    names = ("annotated", "predicted")
    top, bottom = (np.rot90(text_strip(name, width, row_height, centre=True)) for name in names)
    return np.concatenate([blank(width, width), top, blank(_LINE, width, SEPARATOR), bottom])


_DARK = (32, 34, 40)  # behind the masks without an image


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
    width = max(image.shape[1], round(panel[0] * _NARROWEST))
    return add_caption(
        center(image, image.shape[0], width), title, max(20, round(panel[0] / 18)), centre=True
    )


def _joined(images: Sequence[Image], axis: int) -> Image:
    """Join images side by side (1) or stacked (0), with separators between them."""
    height, width = images[0].shape[:2]
    line = blank(height, _LINE, SEPARATOR) if axis else blank(_LINE, width, SEPARATOR)
    parts = [part for image in images for part in (line, image)][1:]
    return np.concatenate(parts, axis=axis)
