"""Colours of the classes of an ROI's class map, and their legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roiseg.common.classes import BACKGROUND, IGNORE, NON_TARGET, TARGET
from roiseg.visualize.canvas import Image, blank, text_width, write
from roiseg.visualize.drawing import draw_boxes
from roiseg.visualize.palette import ROI_RED

CLASS_COLORS = {TARGET: (0, 210, 60), NON_TARGET: (255, 140, 0)}
HATCH_GRAY = (128, 128, 128)

_ENTRIES = {
    "target": TARGET,
    "non-target": NON_TARGET,
    "ignore": IGNORE,
    "background (untouched)": BACKGROUND,
    "ROI box": None,
}
_LINE, _MARGIN, _SPACE = 30, 6, 24  # height of a legend line, its left margin, space between entries; pixels


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


def legend(width: int) -> Image:
    """Explain the colours in an image [30 per line, width, 3]; what does not fit goes to the next line."""
    lines, x = [blank(_LINE, width)], _MARGIN
    for text, value in _ENTRIES.items():
        entry = _entry(text, value)
        if x > _MARGIN and x + entry.shape[1] > width:
            lines.append(blank(_LINE, width))
            x = _MARGIN
        target = lines[-1][:, x : x + entry.shape[1]]
        target[...] = entry[:, : target.shape[1]]
        x += entry.shape[1] + _SPACE
    return np.concatenate(lines)


def _entry(text: str, value: int | None) -> Image:
    """A swatch with its name; no value stands for the ROI box."""
    swatch = blank(18, 28, (255, 255, 255))
    if value is None:
        swatch = draw_boxes(swatch, [[0, 0, 28, 18]], ROI_RED)
    else:
        swatch = color_classes(swatch, np.full((1, 1), value, dtype=np.uint8), alpha=0.8)
    entry = blank(_LINE, 34 + text_width(text, 9))
    entry[6:24, :28] = swatch
    write(entry, text, 34, 11, 9)
    return entry
