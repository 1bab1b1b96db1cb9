"""Colours, text, scaling and layout on RGB uint8 arrays; shared by all images that roiseg draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.common.files import atomic_path

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


Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Color = Sequence[int] | NDArray[np.uint8]

BACKGROUND = (240, 240, 240)
SEPARATOR = (200, 200, 200)
INK = (40, 40, 40)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAP_AT_SCALE_1 = 21.0  # height of a capital letter in pixels; getTextSize differs between OpenCV 4 and 5
_LEGEND_LINE, _LEGEND_MARGIN, _LEGEND_GAP = 30, 6, 24  # line height, left margin, gap between entries; pixels


def rgb(color: Color) -> tuple[int, int, int]:
    """Return `color` as three plain integers for OpenCV."""
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def blank(height: int, width: int, color: Color = BACKGROUND) -> Image:
    """Return an image of one colour, [height, width, 3]."""
    return np.full((height, width, 3), rgb(color), dtype=np.uint8)


def center(image: Image, height: int, width: int, color: Color = BACKGROUND) -> Image:
    """Return `image` in the middle of a [height, width, 3] canvas that is at least as large."""
    canvas = blank(height, width, color)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def fitted_size(width: float, height: float, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the largest (width, height) of that aspect within the limits, in whole pixels, 1 or more."""
    scale = min(max_width / width, max_height / height)
    return (
        min(max(round(width * scale), 1), max_width),
        min(max(round(height * scale), 1), max_height),
    )


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Return `image` at `size` = (width, height)."""
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return `mask` at `size` = (width, height) with smooth edges; a mask with pixels never vanishes."""
    shrinks = size[0] * size[1] < mask.size
    gray = np.where(mask, np.uint8(255), np.uint8(0))
    resized = cv2.resize(gray, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR) >= 128
    if mask.any() and not resized.any():
        ys, xs = np.nonzero(mask)
        resized[ys * size[1] // mask.shape[0], xs * size[0] // mask.shape[1]] = True
    return np.asarray(resized, dtype=np.bool_)


def scale_boxes(boxes: ArrayLike, shape: tuple[int, ...], size: tuple[int, int]) -> NDArray[np.float64]:
    """Scale boxes [N, 4] of an image of `shape` (H, W, ...) to `size` = (width, height)."""
    sx, sy = size[0] / shape[1], size[1] / shape[0]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * np.array([sx, sy, sx, sy])


def ascii_text(text: str) -> str:
    """Return `text` with '?' for every character that OpenCV's fonts lack."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def text_width(text: str, cap: int) -> int:
    """Return the width in pixels of one line of text whose capital letters are `cap` pixels high."""
    return cv2.getTextSize(text, _FONT, cap / _CAP_AT_SCALE_1, 1)[0][0] if text else 0


def shorten(text: str, width: int, cap: int) -> str:
    """Return `text` if it fits in `width` pixels, else with '...' for its middle; '' if nothing fits."""
    if text_width(text, cap) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        shorter = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
        if text_width(shorter, cap) <= width:
            return shorter
    return ""


def draw_text(canvas: Image, text: str, left: int, top: int, cap: int, color: Color = INK) -> None:
    """Draw text INTO `canvas`; `left`, `top` is the corner of the first capital letter, in pixels."""
    scale = cap / _CAP_AT_SCALE_1
    cv2.putText(canvas, text, (left, top + cap), _FONT, scale, rgb(color), 1, cv2.LINE_AA)


def text_strip(text: str, height: int, width: int, centre: bool = False) -> Image:
    """Return one line of text on a strip [height, width, 3]; text too long loses its middle."""
    strip = blank(height, width)
    cap = max(1, round(height * 0.42))
    margin = max(1, height // 5)
    text = shorten(ascii_text(text), width - 2 * margin, cap)
    left = (width - text_width(text, cap)) // 2 if centre else margin
    draw_text(strip, text, left, (height - cap) // 2, cap)
    return strip


def legend(width: int, entries: Iterable[tuple[str, Image]]) -> Image:
    """Return names with swatches [18, 28, 3] in lines [30, width, 3]; entries that do not fit wrap."""
    lines, x = [blank(_LEGEND_LINE, width)], _LEGEND_MARGIN
    for text, swatch in entries:
        entry = blank(_LEGEND_LINE, 34 + text_width(text, 9))
        entry[6:24, :28] = swatch
        draw_text(entry, text, 34, 11, 9)
        if x > _LEGEND_MARGIN and x + entry.shape[1] > width:
            lines.append(blank(_LEGEND_LINE, width))
            x = _LEGEND_MARGIN
        target = lines[-1][:, x : x + entry.shape[1]]
        target[...] = entry[:, : target.shape[1]]
        x += entry.shape[1] + _LEGEND_GAP
    return np.concatenate(lines)


_JPEG_SIDE = 65_500


def write_image(
    path: str | Path, image: NDArray[np.uint8] | NDArray[np.uint16], parameters: Sequence[int] = ()
) -> Path:
    """Write an image atomically, in the format of the path's suffix, and return the path.

    What exceeds the 65,500 pixels of a JPEG's side is scaled down.

    Args:
        image: RGB uint8 [H, W, 3], or one channel uint16 [H, W].
    """
    path = Path(path)
    encoded = encode_image(image, path.suffix, parameters)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)
    return path


def encode_image(
    image: NDArray[np.uint8] | NDArray[np.uint16], suffix: str, parameters: Sequence[int] = ()
) -> bytes:
    """Return an image as the content of a file, see `write_image`."""
    content = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    if suffix == ".jpg" and max(image.shape) > _JPEG_SIDE:
        scale = _JPEG_SIDE / max(image.shape)
        size = [max(1, int(side * scale)) for side in image.shape[1::-1]]
        content = cv2.resize(content, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(suffix, content, parameters)
    if not done:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as {suffix}")
    return encoded.tobytes()
