"""Things that stand among the people and look a little like them: trees, posts, stacks, dressed stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roiseg.data.synthetic.canvas import Canvas, Part, Pattern, Sprite, disc
from roiseg.data.synthetic.outfit import SKIN, random_colour, random_pattern

FOOT = 0.7  # statures below the middle of the canvas


def paint_prop(rng: np.random.Generator, stature: float, light: float) -> Sprite:
    """Paint a random prop about as high as a person of `stature` pixels; none of it is a person."""
    canvas = Canvas(stature, light=light)
    makers: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (
        _tree,
        _post,
        _stack,
        _stand,
        _low_box,
    )
    makers[rng.integers(len(makers))](canvas, rng)
    grain = 1 + 0.12 * rng.standard_normal((16, 6)).astype(np.float32)
    return canvas.sprite((0.0, FOOT), grain)


def _surface(rng: np.random.Generator) -> Pattern:
    if rng.random() < 0.2:
        return Pattern("plain", SKIN[rng.integers(len(SKIN))])
    return random_pattern(rng)


def _tree(canvas: Canvas, rng: np.random.Generator) -> None:
    trunk = Pattern("stripes", (94, 66, 44), (70, 48, 34), 0.02)
    top = np.array([rng.normal(0, 0.04), -0.1])
    canvas.limb(top, np.array([0.0, FOOT]), (0.03, 0.06), trunk, Part.NONE)
    leaves = Pattern("plain", (40 + 50 * rng.random(), 90 + 70 * rng.random(), 30 + 40 * rng.random()))
    for _ in range(int(rng.integers(4, 9))):
        centre = top + rng.normal(0, 0.11, 2) - [0, 0.2]
        canvas.fill(disc(centre, rng.uniform(0.08, 0.2)), (centre - [0, 0.2], centre), 0.2, leaves, Part.NONE)


def _post(canvas: Canvas, rng: np.random.Generator) -> None:
    """A pole with a ball or a plate on top: limb and head without a person."""
    top = np.array([0.0, rng.uniform(-0.6, 0.1)])
    radius = rng.uniform(0.015, 0.06)
    canvas.limb(top, np.array([0.0, FOOT]), (radius, radius), _surface(rng), Part.NONE)
    if rng.random() < 0.7:
        size = rng.uniform(0.05, 0.11, 2)
        canvas.fill(disc(top, (size[0], size[1])), (top - [0, 0.1], top), 0.1, _surface(rng), Part.NONE)
    if rng.random() < 0.4:
        arm = np.array([rng.uniform(0.1, 0.25), rng.uniform(-0.05, 0.15)])
        canvas.limb(top + arm * [-1, 1], top + arm, (0.02, 0.02), _surface(rng), Part.NONE)


def _stack(canvas: Canvas, rng: np.random.Generator) -> None:
    bottom = FOOT
    for _ in range(int(rng.integers(2, 5))):
        half, tall = rng.uniform(0.07, 0.2), rng.uniform(0.12, 0.4)
        x = rng.normal(0, 0.03)
        _box(canvas, (x - half, bottom - tall, x + half, bottom), _surface(rng))
        bottom -= tall
        if bottom < -0.4:
            break


def _stand(canvas: Canvas, rng: np.random.Generator) -> None:
    """A shirt on a stand: a torso that belongs to nobody."""
    pole = Pattern("plain", random_colour(rng))
    canvas.limb(np.array([0.0, -0.2]), np.array([0.0, FOOT]), (0.012, 0.012), pole, Part.NONE)
    canvas.limb(np.array([-0.12, FOOT]), np.array([0.12, FOOT]), (0.012, 0.012), pole, Part.NONE)
    half = rng.uniform(0.1, 0.14)
    left = np.array([[-0.04, -0.2], [-half, -0.17], [-half * 0.8, 0.12]])
    cloth = np.concatenate([left, left[::-1] * [-1, 1]])
    axis = (np.array([0.0, -0.2]), np.array([0.0, 0.12]))
    canvas.fill(cloth, axis, half, random_pattern(rng), Part.NONE)


def _low_box(canvas: Canvas, rng: np.random.Generator) -> None:
    """A crate, bench or bollard that hides legs."""
    half, tall = rng.uniform(0.1, 0.45), rng.uniform(0.12, 0.35)
    _box(canvas, (-half, FOOT - tall, half, FOOT), _surface(rng))


def _box(canvas: Canvas, box: tuple[float, float, float, float], pattern: Pattern) -> None:
    x1, y1, x2, y2 = box
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    middle = (x1 + x2) / 2
    canvas.fill(
        outline, (np.array([middle, y1]), np.array([middle, y2])), x2 - x1, pattern, Part.NONE, relief=0.15
    )
