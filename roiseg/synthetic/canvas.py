"""Paint filled, patterned, shaded, anti-aliased shapes, of which figures and props consist."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np

SUPERSAMPLING = 2
_REACH = 0.75  # of a canvas on each side of its origin, statures


class Part(IntEnum):
    """The body part of a painted pixel; `NONE` is everything that is not a person."""

    NONE = 0
    HEAD = 1
    TORSO = 2
    UPPER_ARM = 3
    LOWER_ARM = 4
    UPPER_LEG = 5
    LOWER_LEG = 6
    CARRIED = 7


@dataclass(frozen=True)
class Pattern:
    """Colours of a surface as a function of the place on it."""

    kind: str  # "plain", "stripes" (across `v`), "bands" (across `u`), "checks" or "gradient" (along `u`)
    first: tuple[float, float, float]  # RGB 0..255
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)  # RGB 0..255, the other colour of the pattern
    period: float = 0.06  # width of one repetition, in statures

    def colours(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return RGB `[..., 3]` at places `u` along and `v` across the surface's axis (in statures)."""
        share = self._share(u, v)[..., None]
        return np.asarray(self.first, np.float32) * (1 - share) + np.asarray(self.second, np.float32) * share

    def _share(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        wave_u, wave_v = np.sin(u * (2 * np.pi / self.period)), np.sin(v * (2 * np.pi / self.period))
        if self.kind == "stripes":
            return (wave_v > 0.2).astype(np.float32)
        if self.kind == "bands":
            return (wave_u > 0.2).astype(np.float32)
        if self.kind == "checks":
            return ((wave_u > 0) * 0.5 + (wave_v > 0) * 0.5).astype(np.float32)
        if self.kind == "gradient":
            return np.clip(u / 0.3, 0, 1).astype(np.float32)
        return np.zeros_like(u, dtype=np.float32)


@dataclass
class Sprite:
    """A painted object, cropped to its own pixels."""

    colour: np.ndarray  # RGB 0..255 times alpha, float32 `[h, w, 3]`
    alpha: np.ndarray  # coverage 0..1, float32 `[h, w]`
    parts: np.ndarray  # `Part` of each pixel with alpha of at least a half, uint8 `[h, w]`
    # pixels (x, y) from the sprite's top left corner to where it stands on the ground
    anchor: tuple[float, float]

    @property
    def solid(self) -> np.ndarray:
        """Return the pixels of the object, bool `[h, w]`: those covered by at least half."""
        return self.alpha >= 0.5


@dataclass
class Canvas:
    """A supersampled surface whose coordinates are statures, origin in its middle, y pointing down."""

    stature: float  # pixels of the final image for one unit
    light: float = 0.0  # horizontal direction the light comes from, -1 (left) to 1 (right)
    _colour: np.ndarray = field(init=False, repr=False)
    _parts: np.ndarray = field(init=False, repr=False)
    _cover: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        side = SUPERSAMPLING * int(np.ceil(2 * _REACH * self.stature))
        self._colour = np.zeros((side, side, 3), np.float32)
        self._parts = np.zeros((side, side), np.uint8)
        self._cover = np.zeros((side, side), np.uint8)

    @property
    def _scale(self) -> float:
        return self.stature * SUPERSAMPLING

    def fill(
        self,
        outline: np.ndarray,
        axis: tuple[np.ndarray, np.ndarray],
        half_width: float,
        pattern: Pattern,
        part: Part,
        *,
        relief: float = 0.3,
    ) -> None:
        """Paint a filled shape.

        Args:
            outline: polygon `[n, 2]`, statures.
            axis: start and end of the shape's axis; the pattern and the round shading follow it.
            half_width: distance from the axis at which the shading is darkest, statures.
            part: label of the painted pixels.
            relief: strength of the shading, 0 is flat.
        """
        height, width = self._cover.shape
        corners = outline * self._scale + np.array([width, height]) / 2
        x1, y1 = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
        x2, y2 = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, [width, height])
        if x1 >= x2 or y1 >= y2:
            return
        inside = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(inside, [np.round((corners - [x1, y1]) * 16).astype(np.int32)], 1, shift=4)
        rows, columns = np.nonzero(inside)
        x = (columns + x1 + 0.5 - width / 2) / self._scale
        y = (rows + y1 + 0.5 - height / 2) / self._scale
        along, across, tilt = _local(x, y, axis)
        round_ = across / max(half_width, 1e-3)
        shade = 1 + relief * (self.light * tilt * round_ * 0.6 - 0.5 * np.clip(round_, -1, 1) ** 2)
        place = (rows + y1, columns + x1)
        self._colour[place] = pattern.colours(along, across) * shade[:, None]
        self._parts[place] = part
        self._cover[place] = 1

    def limb(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: tuple[float, float],
        pattern: Pattern,
        part: Part,
    ) -> None:
        """Paint a rounded, tapered limb from `start` to `end` with a radius (statures) at each end."""
        outline = np.concatenate([disc(start, radii[0]), disc(end, radii[1])])
        hull = cv2.convexHull(outline.astype(np.float32))[:, 0].astype(float)
        self.fill(hull, (start, end), max(radii), pattern, part)

    def sprite(self, foot: tuple[float, float], grain: np.ndarray) -> Sprite:
        """Return the painted object at the final resolution.

        Args:
            foot: where it stands, statures.
            grain: small float32 texture (creases, bark) stretched over the thing and multiplied in.
        """
        n = SUPERSAMPLING
        rows, columns = np.flatnonzero(self._cover.any(1)), np.flatnonzero(self._cover.any(0))
        top, left = rows[0] // n * n, columns[0] // n * n
        height, width = rows[-1] // n + 1 - top // n, columns[-1] // n + 1 - left // n
        crop = (slice(top, top + n * height), slice(left, left + n * width))
        cover = self._cover[crop].astype(np.float32)
        creases = cv2.resize(grain, (n * width, n * height), interpolation=cv2.INTER_CUBIC) * cover
        colour = np.clip(self._colour[crop] * creases[..., None], 0, 255)
        colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
        finest = self._parts[crop]
        parts = np.maximum.reduce([finest[y::n, x::n] for y in range(n) for x in range(n)])
        parts = np.where(alpha >= 0.5, parts, Part.NONE).astype(np.uint8)
        x = foot[0] * self.stature + self._cover.shape[1] / 2 / n - left / n
        y = foot[1] * self.stature + self._cover.shape[0] / 2 / n - top / n
        return Sprite(colour, alpha, parts, (float(x), float(y)))


def vec(x: float, y: float) -> np.ndarray:
    """Return a point or an offset, statures."""
    return np.array([x, y], dtype=float)


def disc(centre: np.ndarray, radius: float | tuple[float, float], count: int = 16) -> np.ndarray:
    """Return the outline `[count, 2]` of a circle or, with two radii, of an upright ellipse."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.asarray(centre) + np.stack([np.cos(turn), np.sin(turn)], 1) * radius


def _local(
    x: np.ndarray, y: np.ndarray, axis: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return coordinates along and across an axis, and how much `across` points to the right (-1..1)."""
    start, end = np.asarray(axis[0], float), np.asarray(axis[1], float)
    direction = end - start
    length = float(np.hypot(*direction))
    dx, dy = direction / length if length > 1e-6 else np.array([0.0, 1.0])
    along = (x - start[0]) * dx + (y - start[1]) * dy
    across = (x - start[0]) * dy - (y - start[1]) * dx
    return along.astype(np.float32), across.astype(np.float32), float(dy)
