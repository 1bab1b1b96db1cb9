"""Two-row overlay: annotated masks with ROI boxes above, predicted masks below; one column per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    text_strip,
)
from roiseg.visualize.drawing import add_caption, blend_masks, draw_boxes, draw_labels
from roiseg.visualize.palette import ROI_RED, instance_colors

_WIDEST = 2.5  # a column is at most this many row heights wide ...
_NARROWEST = 0.5  # ... and at least this many, so that its title can be read
_LINE = 3  # separator, pixels


@dataclass(frozen=True)
class OverlayColumn:
    """One image of an overlay; everything in the pixels of the original image.

    Attributes:
        title: file name; the number of ROIs is appended.
        image: RGB uint8 [H, W, 3].
        boxes: ROI boxes, float [N, 4] x1, y1, x2, y2.
        truth: annotated masks, bool [N, H, W].
        prediction: predicted masks, bool [N, H, W], in the order of `boxes` and `truth`.
    """

    title: str
    image: Image
    boxes: NDArray[np.floating]
    truth: Mask
    prediction: Mask


def two_row_overlay(columns: Sequence[OverlayColumn], row_height: int = 480) -> Image:
    """Draw annotated masks (ROI boxes in red, numbers) above predicted masks.

    An instance has the same colour in both rows. Each image is scaled to `row_height`, keeping its aspect;
    columns are at most 2.5 and at least 0.5 row heights wide.

    Args:
        columns: one per image, one or more.
        row_height: height of each of the two rows in pixels.

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
