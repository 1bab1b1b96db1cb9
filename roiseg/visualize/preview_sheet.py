"""A sheet of training samples: the input image with its ROI boxes, and each ROI with its class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.common.classes import BACKGROUND, IGNORE, NON_TARGET, TARGET
from roiseg.visualize.canvas import (
    CLASS_COLORS,
    HATCH_GRAY,
    ROI_RED,
    SEPARATOR,
    Image,
    blank,
    center,
    fitted_size,
    legend,
    resize_image,
    scale_boxes,
    text_strip,
)
from roiseg.visualize.drawing import add_caption, draw_boxes, draw_labels

CELL = (226, 226, 226)  # the part of a cell that the crop does not fill
OUTSIDE = (205, 205, 205)  # the part of a ROI outside the image

_CLASSES = {
    "target": TARGET,
    "non-target": NON_TARGET,
    "ignore": IGNORE,
    "background (untouched)": BACKGROUND,
}

_STRIP = 20  # height of captions, pixels
_GAP = 6  # between cells, pixels
_MAX_ASPECT = 1.6  # width of the input image over the height of the ROI grid
_MAX_SUPERSAMPLING = 8  # of a crop that is shrunk


@dataclass(frozen=True)
class PreviewSample:
    """One training sample."""

    title: str  # file name or other title
    image: Image  # the network's (augmented) input, RGB uint8 [H, W, 3]
    boxes: NDArray[np.floating]  # ROI boxes, float [R, 4] x1, y1, x2, y2 in pixels of `image`
    # class maps, R times uint8 [h, w] with 0, 1, 2, 255, on a grid stretched over the ROI box
    labels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


def roi_strip(
    image: Image,
    box: ArrayLike,
    labels: NDArray[np.uint8],
    cell: int = 160,
    text: str = "",
    alpha: float = 0.5,
) -> Image:
    """Draw the crop of one ROI with its class map over it, and a caption below.

    Args:
        box: x1, y1, x2, y2 in pixels of `image`; parts outside the image are grey.
        labels: uint8 [h, w]: 1 target, 2 non-target, 255 ignore (grey hatch), 0 untouched.
        cell: side in pixels of the square that the crop is fitted into, keeping the box's aspect.
        alpha: weight of the class colours, 0 to 1.

    Returns:
        RGB uint8 [cell + 20, cell, 3].
    """
    x1, y1, x2, y2 = (float(value) for value in np.asarray(box, dtype=np.float64))
    if not (x2 > x1 and y2 > y1 and np.isfinite([x1, y1, x2, y2]).all()):
        return add_caption(_message("empty box", cell, cell), text, _STRIP, below=True, centre=True)
    size = fitted_size(x2 - x1, y2 - y1, cell, cell)
    crop = color_classes(_crop(image, (x1, y1, x2, y2), size), labels, alpha)
    return add_caption(center(crop, cell, cell, CELL), text, _STRIP, below=True, centre=True)


def preview_sheet(samples: Sequence[PreviewSample], max_rois: int = 6, cell: int = 160) -> Image:
    """Draw one row per sample: the input image with numbered ROI boxes, then its ROIs in two lines of cells.

    Args:
        max_rois: maximum number of ROIs per sample, the first ones; the title gives the total.
        cell: side of a ROI cell in pixels.

    Returns:
        One RGB uint8 image with a legend at the bottom.
    """
    lines = min(max_rois, 2)
    most = min(max_rois, max(len(sample.boxes) for sample in samples))
    columns = max(-(-most // lines), 1)
    height = lines * (cell + _STRIP) + (lines - 1) * _GAP
    limits = (round(_MAX_ASPECT * height), height)
    image_width = max(fitted_size(s.image.shape[1], s.image.shape[0], *limits)[0] for s in samples)
    parts = []
    for sample in samples:
        overview = center(_overview(sample, max_rois, limits), height, image_width)
        cells = [_grid(sample, max_rois, cell, lines, columns), blank(height, _GAP)]
        row = np.concatenate([blank(height, _GAP), overview, blank(height, 2 * _GAP), *cells], axis=1)
        row = add_caption(row, f"{sample.title} - {_count(len(sample.boxes), max_rois)}", _STRIP + 6)
        parts += [row, blank(_GAP, row.shape[1]), blank(2, row.shape[1], SEPARATOR)]
    return np.concatenate([*parts, class_legend(parts[0].shape[1])])


def _count(rois: int, max_rois: int) -> str:
    """Return the number of ROIs of a sample, in words."""
    if rois > max_rois:
        return f"{max_rois} of {rois} ROIs shown"
    return "no ROIs" if rois == 0 else "1 ROI" if rois == 1 else f"{rois} ROIs"


def _overview(sample: PreviewSample, max_rois: int, limits: tuple[int, int]) -> Image:
    """Draw the input image, fitted into `limits` = (width, height), with all boxes and the first numbers."""
    size = fitted_size(sample.image.shape[1], sample.image.shape[0], *limits)
    boxes = scale_boxes(sample.boxes, sample.image.shape, size)
    image = draw_boxes(resize_image(sample.image, size), boxes, ROI_RED, thickness=1)
    numbers = range(1, min(len(boxes), max_rois) + 1)
    red = np.full((len(numbers), 3), ROI_RED, dtype=np.uint8)
    return draw_labels(image, boxes[:max_rois], numbers, red, size=8)


def _grid(sample: PreviewSample, max_rois: int, cell: int, lines: int, columns: int) -> Image:
    """Draw the first `max_rois` ROIs of a sample in `lines` x `columns` cells."""
    height, width = lines * (cell + _STRIP + _GAP) - _GAP, columns * (cell + _GAP) - _GAP
    if len(sample.boxes) == 0:
        return _message("no ROIs", height, width)
    canvas = blank(height, width)
    for index, box in enumerate(np.asarray(sample.boxes, dtype=np.float64)[:max_rois]):
        y, x = index // columns * (cell + _STRIP + _GAP), index % columns * (cell + _GAP)
        text = f"{index + 1}: {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px"
        strip = roi_strip(sample.image, box, np.asarray(sample.labels[index]), cell, text)
        canvas[y : y + strip.shape[0], x : x + cell] = strip
    return canvas


def _crop(image: Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image:
    """Return the exact (sub-pixel) content of `box` at `size` = (width, height), grey outside the image."""
    x1, y1, x2, y2 = box
    shrinks = max((x2 - x1) / size[0], (y2 - y1) / size[1])
    finer = int(np.clip(np.ceil(shrinks), 1, _MAX_SUPERSAMPLING))
    sx, sy = (x2 - x1) / (size[0] * finer), (y2 - y1) / (size[1] * finer)
    to_image = np.array([[sx, 0, x1 + sx / 2 - 0.5], [0, sy, y1 + sy / 2 - 0.5]])
    target = (size[0] * finer, size[1] * finer)
    crop = cv2.warpAffine(
        image,
        to_image,
        target,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=OUTSIDE,
    )
    return resize_image(np.asarray(crop, dtype=np.uint8), size)


def _message(text: str, height: int, width: int) -> Image:
    """Return a few words in the middle of an empty cell."""
    return center(text_strip(text, min(height, 24), width, centre=True), height, width)


def color_classes(image: Image, labels: NDArray[np.uint8], alpha: float = 0.5) -> Image:
    """Tint `image` [H, W, 3] by the class map [h, w], whose grid is stretched over the whole image."""
    height, width = image.shape[:2]
    rows = (np.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    stretched = labels[rows[:, None], columns]
    stripes = (np.arange(height)[:, None] + np.arange(width)) // 3 % 2 == 0
    result = image.copy()
    for color, chosen, weight in (
        *((color, stretched == value, alpha) for value, color in CLASS_COLORS.items()),
        (HATCH_GRAY, (stretched == IGNORE) & stripes, 1.0),
    ):
        tint = np.array(color, dtype=np.float32) * weight
        result[chosen] = np.rint(image[chosen] * np.float32(1 - weight) + tint)
    return result


def class_legend(width: int) -> Image:
    """Return the legend of the class colours and the ROI box."""
    white = blank(18, 28, (255, 255, 255))
    entries = [
        (name, color_classes(white, np.full((1, 1), value, np.uint8), 0.8))
        for name, value in _CLASSES.items()
    ]
    return legend(width, [*entries, ("ROI box", draw_boxes(white, [[0, 0, 28, 18]], ROI_RED))])
