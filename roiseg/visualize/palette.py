"""Colours of what is shown and of instances; instance colours are distinct, stable and never near ROI red."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from roiseg.common.classes import NON_TARGET, TARGET

ROI_RED = (255, 0, 0)
COLORS = {  # the page's are in roiseg/web/static/style.css
    "target": (0, 200, 220),
    "non-target": (255, 140, 0),
    "annotated": (0, 210, 60),
    "predicted": (30, 144, 255),
}
CLASS_COLORS = {TARGET: COLORS["target"], NON_TARGET: COLORS["non-target"]}
HATCH_GRAY = (128, 128, 128)  # ignored pixels

_FIRST = [
    (30, 144, 255),  # blue
    (255, 210, 0),  # yellow
    (50, 205, 80),  # green
    (230, 70, 230),  # magenta
    (0, 220, 220),  # cyan
    (255, 145, 30),  # orange
    (150, 100, 255),  # violet
    (175, 235, 40),  # lime
    (255, 160, 200),  # pink
    (0, 160, 130),  # teal
]
_DISTINCT = 512
_MIN_RED_DISTANCE = 55
_MIN_CHROMA = 30
_LIGHTNESS = (45, 93)


def instance_colors(n: int) -> NDArray[np.uint8]:
    """Return colours for `n` instances.

    The i-th colour is the same for every `n`. The first 512 are distinct; later ones repeat.

    Args:
        n: number of instances, 0 or more.

    Returns:
        RGB colours, uint8 [n, 3].
    """
    return _palette()[np.arange(n) % _DISTINCT]


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """Return the hand-picked colours, then repeatedly the candidate farthest from all so far, [512, 3]."""
    chosen = [np.array(color) for color in _FIRST]
    candidates = _candidates()
    lab = _lab(candidates)
    nearest = np.full(len(candidates), np.iinfo(np.int64).max)
    for color in _lab(np.array(_FIRST)):
        nearest = np.minimum(nearest, _squared(lab - color))
    while len(chosen) < _DISTINCT:
        farthest = int(nearest.argmax())
        chosen.append(candidates[farthest])
        nearest = np.minimum(nearest, _squared(lab - lab[farthest]))
    return np.array(chosen, dtype=np.uint8)


def _candidates() -> NDArray[np.int64]:
    """Return RGB grid colours that are bright and saturated enough and far from ROI red, [k, 3]."""
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(grid)
    bright = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    saturated = _squared(lab[:, 1:]) >= _MIN_CHROMA**2
    not_red = _squared(lab - _lab(np.array([ROI_RED]))) >= _MIN_RED_DISTANCE**2
    return grid[bright & saturated & not_red]


def _squared(difference: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the squared length of the last axis."""
    return (difference**2).sum(axis=-1)


def _lab(rgb: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert sRGB [k, 3] to CIE Lab (D65), rounded so that every machine picks the same colours."""
    value = np.asarray(rgb) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.0890])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root.T
    return np.rint(np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)).astype(np.int64)
