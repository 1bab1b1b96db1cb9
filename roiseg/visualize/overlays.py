"""Two-row overlay: ground truth with ROI boxes above, prediction below, one column per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from roiseg.common.files import atomic_path
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
    text_strip,
)
from roiseg.visualize.drawing import blend_masks, caption, draw_boxes, draw_numbers
from roiseg.visualize.palette import ROI_RED, instance_colors

_WIDEST = 2.5  # a column is at most this many row heights wide ...
_NARROWEST = 0.5  # ... and at least this many, so that its title can be read
_LINE = 3  # separator, pixels


@dataclass(frozen=True)
class OverlayColumn:
    """One image of an overlay; everything in the pixels of the original image.

    Attributes:
        title: file name; the number of ROIs is added to it.
        image: RGB uint8 [H, W, 3].
        boxes: ROI boxes, float [N, 4] x1, y1, x2, y2.
        truth: annotated masks, bool [N, H, W].
        prediction: predicted masks, bool [N, H, W]; instance i is the one of box i and truth i.
    """

    title: str
    image: Image
    boxes: NDArray[np.floating]
    truth: Mask
    prediction: Mask

    def __post_init__(self) -> None:
        check_image(self.image)
        shape = (len(self.boxes), *self.image.shape[:2])
        for name in ("truth", "prediction"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} of {self.title!r} must be {shape}, got {getattr(self, name).shape}")


def two_row_overlay(columns: Sequence[OverlayColumn], row_height: int = 480) -> Image:
    """Ground truth (masks, ROI boxes in red, numbers) above the prediction (masks only).

    An instance has the same colour in both rows. Each image is scaled to `row_height` with its aspect
    kept; a very wide one is fitted into 2.5 row heights, a very tall one stands in half a row height.

    Args:
        columns: one per image, at least one.
        row_height: height of each of the two rows in pixels.

    Returns:
        One RGB uint8 image [2 * row_height + titles, ..., 3].
    """
    if not columns:
        raise ValueError("an overlay needs at least one column")
    title_height = max(18, round(row_height / 15))
    pictures = [_row_labels(row_height, title_height)]
    for column in columns:
        picture = _column(column, row_height, title_height)
        pictures += [blank(picture.shape[0], _LINE, SEPARATOR), picture]
    return np.concatenate(pictures, axis=1)


def save_png(path: str | Path, image: Image) -> Path:
    """Write an RGB uint8 [H, W, 3] image as png, whole or not at all; returns the path."""
    check_image(image)
    path = Path(path)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return path


def _column(column: OverlayColumn, row_height: int, title_height: int) -> Image:
    """Title, ground truth, separator and prediction of one image, on top of each other."""
    height, width = column.image.shape[:2]
    size = fitted_size(width, height, round(_WIDEST * row_height), row_height)
    image = resize_image(column.image, size)
    colors = instance_colors(len(column.boxes))
    boxes = scale_boxes(column.boxes, column.image.shape, size)

    top = blend_masks(image, _resized(column.truth, size), colors)
    thickness, digits = max(1, round(row_height / 240)), max(8, round(row_height / 48))
    top = draw_boxes(top, boxes, ROI_RED, thickness)
    top = draw_numbers(top, boxes, range(1, len(boxes) + 1), colors, digits, inset=thickness)
    bottom = blend_masks(image, _resized(column.prediction, size), colors)

    column_width = max(size[0], round(_NARROWEST * row_height))
    line = blank(_LINE, column_width, SEPARATOR)
    rows = [centred(top, row_height, column_width), line, centred(bottom, row_height, column_width)]
    count = "1 ROI" if len(boxes) == 1 else f"{len(boxes)} ROIs"
    return caption(np.concatenate(rows), f"{column.title} - {count}", title_height)


def _resized(masks: Mask, size: tuple[int, int]) -> Mask:
    """Masks [N, H, W] at `size` = (width, height)."""
    resized = [resize_mask(mask, size) for mask in masks]
    return np.stack(resized) if resized else np.zeros((0, size[1], size[0]), dtype=np.bool_)


def _row_labels(row_height: int, width: int) -> Image:
    """The strip at the left with the two row names, written upwards."""
    names = ("ground truth", "prediction")
    top, bottom = (np.rot90(text_strip(name, width, row_height, centre=True)) for name in names)
    return np.concatenate([blank(width, width), top, blank(_LINE, width, SEPARATOR), bottom])
