"""A sheet of single instances: what was annotated, and what was predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.geometry.paste import Window
from roiseg.visualize.canvas import (
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
    text_width,
    write,
)
from roiseg.visualize.class_map import CLASS_COLORS
from roiseg.visualize.drawing import blend_masks, draw_boxes, draw_outlines
from roiseg.visualize.palette import ROI_RED

PREDICTED = (30, 144, 255)

_LEGEND = {
    "annotated": CLASS_COLORS[TARGET],
    "predicted": PREDICTED,
    "other persons": CLASS_COLORS[NON_TARGET],
    "ROI": ROI_RED,
}
_STRIP = 20  # height of a line of text, pixels
_GAP = 6  # between cells, pixels


@dataclass(frozen=True)
class Case:
    """One instance; everything in the pixels of a part of its original image.

    Attributes:
        title, note: a line of text above the image, and one below.
        image: the part of the image, RGB uint8 [H, W, 3].
        box: its ROI, x1, y1, x2, y2.
        truth, prediction: bool [H, W].
        others: masks of the other annotated persons, bool [N, H, W].
    """

    title: str
    note: str
    image: Image
    box: NDArray[np.floating]
    truth: Mask
    prediction: Mask
    others: Mask

    def __post_init__(self) -> None:
        check_image(self.image)
        for name in ("truth", "prediction", "others"):
            shape = getattr(self, name).shape
            if shape[-2:] != self.image.shape[:2] or len(shape) != 2 + (name == "others"):
                raise ValueError(f"{name} of {self.title!r} is {shape}, its image {self.image.shape}")


def surroundings(box: ArrayLike, size: tuple[int, int], growth: float = 1.3) -> Window:
    """Whole pixels around a box, its sides grown by a factor, within an image of `size` (H, W)."""
    x1, y1, x2, y2 = (float(edge) for edge in np.asarray(box, np.float64))
    dx, dy = (x2 - x1) * (growth - 1) / 2, (y2 - y1) * (growth - 1) / 2
    left, top = max(0, math.floor(x1 - dx)), max(0, math.floor(y1 - dy))
    return left, top, min(size[1], math.ceil(x2 + dx)), min(size[0], math.ceil(y2 + dy))


def case_sheet(title: str, cases: Sequence[Case], columns: int = 4, cell: int = 300) -> Image:
    """Cells in reading order under a title, explained by a legend.

    Args:
        title: of the sheet.
        cases: at least one.
        columns: cells a row.
        cell: side of the square that an image is fitted into, with its aspect kept, pixels.

    Returns:
        One RGB uint8 image.
    """
    if not cases:
        raise ValueError("a sheet needs at least one case")
    cells = [_cell(case, cell) for case in cases]
    empty = blank(*cells[0].shape[:2])
    width = columns * (cell + _GAP) + _GAP
    pictures = [text_strip(title, _STRIP + 8, width)]
    for start in range(0, len(cells), columns):
        row = [*cells[start : start + columns], *[empty] * (start + columns - len(cells))]
        gap = blank(empty.shape[0], _GAP)
        pictures += [np.concatenate([gap, *(part for one in row for part in (one, gap))], axis=1)]
        pictures += [blank(_GAP, width)]
    return np.concatenate([*pictures, _legend(width)])


def _cell(case: Case, cell: int) -> Image:
    """Both lines of text and the image between them, [cell + text, cell, 3]."""
    size = fitted_size(case.image.shape[1], case.image.shape[0], cell, cell)
    truth, prediction = resize_mask(case.truth, size), resize_mask(case.prediction, size)
    others = np.array([resize_mask(mask, size) for mask in case.others], bool).reshape(-1, *truth.shape)
    picture = resize_image(case.image, size)
    colors = np.array([PREDICTED], np.uint8)
    picture = blend_masks(picture, prediction[None], colors, alpha=0.45)
    picture = draw_boxes(picture, scale_boxes(case.box, case.image.shape, size), ROI_RED, thickness=1)
    picture = draw_outlines(picture, others, CLASS_COLORS[NON_TARGET])
    picture = draw_outlines(picture, truth[None], CLASS_COLORS[TARGET], thickness=2)
    lines = [text_strip(text, _STRIP, cell, centre=True) for text in (case.title, case.note)]
    return np.concatenate([lines[0], centred(picture, cell, cell), lines[1]])


def _legend(width: int) -> Image:
    """One line with a swatch and a name a colour."""
    line, x = blank(_STRIP + 10, width), _GAP
    for name, color in _LEGEND.items():
        line[8:22, x : x + 24] = color
        write(line, name, x + 30, 10, 9)
        x += 30 + text_width(name, 9) + 24
    return line
