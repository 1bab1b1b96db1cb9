"""Render an image: people and props by depth on a background, with each person's exact visible mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from roiseg.synthetic.canvas import Sprite
from roiseg.synthetic.clothes import SKIN, Outfit, paint_prop, random_colour, random_outfit
from roiseg.synthetic.figure import paint_figure, random_pose


def paint_background(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    """Paint a wall or sky above a floor.

    Args:
        size: (height, width), pixels.
        horizon: row at which the ground begins, pixels.

    Returns:
        RGB 0..255, float32 `[height, width, 3]`.
    """
    height, width = size
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    above = _ramp(rows / max(horizon, 1), rng)
    below = _ramp((rows - horizon) / max(height - horizon, 1), rng)
    canvas = np.where(rows < horizon, above, below) * np.ones((1, width, 1), np.float32)
    for _ in range(int(rng.integers(2, 9))):
        _clutter(canvas, rng, horizon)
    if rng.random() < 0.35:
        _tiles(canvas, rng, int(horizon))
    canvas += _octaves(rng, size) * rng.uniform(3, 18)
    return np.clip(canvas, 0, 255)


def _ramp(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a colour gradient over `share` (0..1 within its half of the image)."""
    first, second = (70 + 0.72 * np.array(random_colour(rng)) for _ in range(2))
    second = first * 0.6 + second * 0.4
    share = np.clip(share, 0, 1)
    return (first * (1 - share) + second * share).astype(np.float32)


def _octaves(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a texture of zero mean and about unit variance: noise at several scales, partly coloured."""
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40, 120):
        grain = rng.standard_normal((cells * height // width + 1, cells, 3)).astype(np.float32)
        grain = grain * 0.3 + grain[..., :1] * 0.7
        total += rng.uniform(0.1, 0.9) * cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return total


def _clutter(canvas: np.ndarray, rng: np.random.Generator, horizon: float) -> None:
    """Draw a flat object: window, panel, patch or line, sometimes in the colour of skin."""
    height, width = canvas.shape[:2]
    colour = SKIN[rng.integers(len(SKIN))] if rng.random() < 0.2 else random_colour(rng)
    x, y = int(rng.uniform(-0.1, 1.0) * width), int(rng.uniform(-0.1, 0.9) * height)
    w, h = int(width * rng.uniform(0.04, 0.3)), int(height * rng.uniform(0.05, 0.5))
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
        if rng.random() < 0.5:
            cv2.rectangle(canvas, (x, y), (x + w, y + h), random_colour(rng), 2)
    elif kind == 1:
        axes, turn = (w // 2 + 2, h // 3 + 2), float(rng.uniform(0, 180))
        cv2.ellipse(canvas, (x, y), axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        angle = rng.uniform(0, np.pi)
        end = (int(x + 0.6 * width * np.cos(angle)), int(y + 0.6 * width * np.sin(angle)))
        cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 9)), cv2.LINE_AA)
    else:
        _windows(canvas, rng, (x, min(y, int(horizon))), (w + 20, h + 20))


def _windows(
    canvas: np.ndarray, rng: np.random.Generator, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    wall, glass = random_colour(rng), random_colour(rng)
    x, y = corner
    cv2.rectangle(canvas, corner, (x + size[0], y + size[1]), wall, -1)
    step = int(rng.integers(9, 22))
    for top in range(y + 3, y + size[1] - step // 2, step):
        for left in range(x + 3, x + size[0] - step // 2, step):
            cv2.rectangle(canvas, (left, top), (left + step // 2, top + step * 2 // 3), glass, -1)


def _tiles(canvas: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    """Draw the joints of a tiled floor in perspective."""
    height, width = canvas.shape[:2]
    joint = random_colour(rng)
    vanish = (int(rng.uniform(0.2, 0.8) * width), horizon)
    for x in range(-width, 2 * width, int(rng.integers(30, 70))):
        cv2.line(canvas, vanish, (x, height), joint, 1, cv2.LINE_AA)
    row = 4.0
    while horizon + row < height:
        cv2.line(canvas, (0, int(horizon + row)), (width, int(horizon + row)), joint, 1)
        row *= 1.45


SIZES = ((240, 320), (288, 384), (256, 352), (352, 288), (320, 320), (320, 256))  # (height, width)
PEOPLE_CYCLE = (2, 1, 3, 2, 5, 3, 4, 6)  # persons in the images 0, 1, 2, ... of a split
MIN_VISIBLE_PIXELS = 150
MIN_VISIBLE_SHARE = 0.5
LAYOUT_ATTEMPTS = 40


@dataclass(frozen=True)
class Scene:
    """A rendered image."""

    image: np.ndarray  # RGB, uint8 `[H, W, 3]`
    instances: np.ndarray  # uint8 `[H, W]`, 0 where there is no person, else the person's number 1..`people`
    parts: np.ndarray  # `canvas.Part` of the visible person at each pixel, uint8 `[H, W]`
    people: int  # number of persons, each of them visible


@dataclass(frozen=True, eq=False)  # compared by identity: sprites are arrays
class _Item:
    """A sprite and where its top left corner lies; `foot` orders by depth (greater is nearer)."""

    sprite: Sprite
    left: int
    top: int
    foot: float
    person: bool

    def overlap(self, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the overlapping slices of the image and of the sprite."""
        height, width = self.sprite.alpha.shape
        y1, x1 = max(0, self.top), max(0, self.left)
        y2, x2 = max(y1, min(size[0], self.top + height)), max(x1, min(size[1], self.left + width))
        inner = (slice(y1 - self.top, y2 - self.top), slice(x1 - self.left, x2 - self.left))
        return (slice(y1, y2), slice(x1, x2)), inner


def render_scene(rng: np.random.Generator, people: int, crowding: float = 0.0) -> Scene:
    """Render an image with `people` persons, each visible to at least half of its pixels and 150 of them.

    If no arrangement shows everyone, hidden people are removed, so that every person has a mask.

    Args:
        crowding: 0 to 1; at 1 everyone stands close to another person, and a third of a person is enough to
            be visible.
    """
    size = SIZES[rng.integers(len(SIZES))]
    horizon = size[0] * rng.uniform(0.15, 0.55)
    light = float(rng.uniform(-1, 1))
    sprites = _paint_people(rng, people, size[0], light)
    props = [
        _Item(paint_prop(rng, stature, light), 0, 0, 0.0, False)
        for stature in rng.uniform(50, 210, int(rng.integers(0, 5)))
    ]
    for _ in range(LAYOUT_ATTEMPTS):
        items = _arrange(rng, sprites, props, size, crowding)
        hidden = _hidden(items, size, crowding)
        if not hidden:
            break
    while hidden:
        items = [item for item in items if item not in hidden]
        hidden = _hidden(items, size, crowding)
    return _compose(rng, items, size, horizon)


def _paint_people(
    rng: np.random.Generator, people: int, height: int, light: float
) -> list[tuple[Sprite, float]]:
    """Return sprites with their statures in pixels; sizes within an image are related."""
    low, high = (110, 235) if rng.random() < 0.75 else (55, 110)
    middle = np.exp(rng.uniform(np.log(low), np.log(high)))
    team: Outfit | None = random_outfit(rng) if rng.random() < 0.2 else None
    sprites = []
    for _ in range(people):
        stature = float(np.clip(middle * np.exp(rng.normal(0, 0.22)), 42, min(220, height * 0.92)))
        outfit = random_outfit(rng, team if rng.random() < 0.7 else None)
        sprites.append((paint_figure(random_pose(rng), outfit, stature, light, rng), stature))
    return sprites


def _arrange(
    rng: np.random.Generator,
    people: list[tuple[Sprite, float]],
    props: list[_Item],
    size: tuple[int, int],
    crowding: float,
) -> list[_Item]:
    """Place all items: 60 % of the people (all, if crowded) beside, in front of or behind an earlier one."""
    height, width = size
    items: list[_Item] = []
    spots: list[tuple[float, float, float]] = []
    for sprite, stature in people:
        if spots and rng.random() < 0.6 + 0.4 * crowding:
            near_x, near_y, near_stature = spots[rng.integers(len(spots))]
            side, distance = rng.choice([-1, 1]), rng.uniform(0.22, 0.55) * (1 - 0.6 * crowding)
            x = near_x + side * distance * max(stature, near_stature)
            y = near_y + (stature - near_stature) * rng.uniform(0.2, 0.8) + rng.normal(0, 0.04) * stature
        else:
            x = rng.uniform(0.02, 0.98) * width
            y = rng.uniform(min(stature * 0.95, height), height * 1.08 + stature * 0.12)
        spots.append((x, y, stature))
        items.append(_stand_at(sprite, x, y, y + rng.normal(0, 0.03) * stature, True))
    for prop in props:
        x, y = rng.uniform(0, 1) * width, rng.uniform(0.45, 1.1) * height
        items.append(_stand_at(prop.sprite, x, y, y - rng.uniform(0, 0.5) * height, False))
    return sorted(items, key=lambda item: item.foot)


def _stand_at(sprite: Sprite, x: float, y: float, foot: float, person: bool) -> _Item:
    return _Item(sprite, round(x - sprite.anchor[0]), round(y - sprite.anchor[1]), float(foot), person)


def _visible_items(items: list[_Item], size: tuple[int, int]) -> np.ndarray:
    """Return the index + 1 of the visible item at each pixel, 0 for the background; uint8 `[H, W]`."""
    indices = np.zeros(size, np.uint8)
    for index, item in enumerate(items):
        outer, inner = item.overlap(size)
        indices[outer][item.sprite.solid[inner]] = index + 1
    return indices


def _hidden(items: list[_Item], size: tuple[int, int], crowding: float) -> list[_Item]:
    """Return the persons of whom too little is visible."""
    share = MIN_VISIBLE_SHARE * (1 - crowding / 3)
    visible = np.bincount(_visible_items(items, size).ravel(), minlength=len(items) + 1)[1:]
    return [
        item
        for item, pixels in zip(items, visible, strict=True)
        if item.person and pixels < max(MIN_VISIBLE_PIXELS, share * item.sprite.solid.sum())
    ]


def _compose(rng: np.random.Generator, items: list[_Item], size: tuple[int, int], horizon: float) -> Scene:
    canvas = paint_background(rng, size, horizon)
    parts = np.zeros(size, np.uint8)
    for item in items:
        _cast_shadow(canvas, item)
        outer, inner = item.overlap(size)
        sprite = item.sprite
        canvas[outer] = canvas[outer] * (1 - sprite.alpha[inner][..., None]) + sprite.colour[inner]
        solid = sprite.solid[inner]
        parts[outer][solid] = sprite.parts[inner][solid]
    numbers = np.zeros(len(items) + 1, np.uint8)
    persons = [index + 1 for index, item in enumerate(items) if item.person]
    numbers[persons] = np.arange(1, len(persons) + 1)
    return Scene(_photograph(rng, canvas), numbers[_visible_items(items, size)], parts, len(persons))


def _cast_shadow(canvas: np.ndarray, item: _Item) -> None:
    """Darken the ground below an item."""
    width = item.sprite.alpha.shape[1]
    x, y = item.left + item.sprite.anchor[0], item.top + item.sprite.anchor[1]
    tone = np.zeros(canvas.shape[:2], np.float32)
    axes = (max(2, int(width * 0.45)), max(1, int(width * 0.09)))
    cv2.ellipse(tone, (int(x), int(y)), axes, 0, 0, 360, 0.35, -1, cv2.LINE_AA)
    canvas *= 1 - cv2.blur(tone, (5, 5))[..., None]


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add lighting, colour cast, vignette, blur and sensor noise; return uint8."""
    height, width = canvas.shape[:2]
    gain = rng.uniform(0.7, 1.15) * rng.uniform(0.92, 1.08, 3)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    slope = 1 + rng.uniform(-0.2, 0.2) * x + rng.uniform(-0.2, 0.2) * y
    lit = canvas * (gain * slope[..., None]).astype(np.float32)
    blur = rng.uniform(0, 0.75)
    if blur > 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), blur)
    lit = lit + np.float32(rng.uniform(0.5, 5)) * rng.standard_normal(lit.shape, dtype=np.float32)
    return np.clip(lit + rng.uniform(-8, 8), 0, 255).astype(np.uint8)
