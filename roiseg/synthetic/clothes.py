"""Sample clothes, and paint props in the same style."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from roiseg.synthetic.canvas import Canvas, Part, Pattern, Sprite, disc

Colour = tuple[float, float, float]

SKIN: tuple[Colour, ...] = (
    (244, 208, 177), (233, 185, 149), (224, 172, 105), (198, 134, 66),
    (161, 102, 60), (120, 76, 46), (84, 53, 36),
)  # fmt: skip
HAIR: tuple[Colour, ...] = (
    (24, 20, 18), (52, 36, 26), (92, 60, 34), (140, 94, 52), (206, 168, 104), (168, 80, 40), (190, 188, 184),
)  # fmt: skip


@dataclass(frozen=True)
class Outfit:
    """Colours and cuts of one figure."""

    skin: Pattern
    hair: Pattern
    long_hair: bool
    top: Pattern
    sleeves: str  # "none", "short" or "long"
    bottom: Pattern
    cut: str  # "trousers", "shorts", "skirt" or "dress"
    shoes: Pattern
    hat: Pattern | None
    brim: bool  # the hat has a brim all round
    bag: Pattern | None
    backpack: bool  # the bag is worn on the back, else it hangs from a hand
    build: float  # thickness of the limbs, 1 is average


def random_colour(rng: np.random.Generator) -> Colour:
    """Sample a clothing colour: often grey or muted, sometimes saturated."""
    muted = rng.random() < 0.45
    saturation = rng.uniform(0, 0.25) if muted else rng.uniform(0.3, 0.9)
    value = rng.uniform(0.08, 0.97) if muted else rng.uniform(0.25, 0.95)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return 255 * red, 255 * green, 255 * blue


def random_pattern(rng: np.random.Generator) -> Pattern:
    """Sample a surface, plain in half of the cases."""
    kind = str(
        rng.choice(["plain", "stripes", "bands", "checks", "gradient"], p=[0.5, 0.12, 0.14, 0.12, 0.12])
    )
    return Pattern(kind, random_colour(rng), random_colour(rng), float(rng.uniform(0.035, 0.09)))


def random_outfit(rng: np.random.Generator, like: Outfit | None = None) -> Outfit:
    """Sample an outfit; with `like`, one of the same team (equal top, sometimes equal bottom)."""
    skin = SKIN[rng.integers(len(SKIN))]
    cut = str(rng.choice(["trousers", "shorts", "skirt", "dress"], p=[0.58, 0.16, 0.13, 0.13]))
    top = random_pattern(rng)
    denim = Pattern("plain", (44 + 40 * rng.random(), 62 + 40 * rng.random(), 100 + 50 * rng.random()))
    bottom = top if cut == "dress" else denim if rng.random() < 0.25 else random_pattern(rng)
    outfit = Outfit(
        skin=Pattern("plain", skin),
        hair=Pattern("plain", HAIR[rng.integers(len(HAIR))]),
        long_hair=bool(rng.random() < 0.4),
        top=top,
        sleeves=str(rng.choice(["none", "short", "long"], p=[0.15, 0.35, 0.5])),
        bottom=bottom,
        cut=cut,
        shoes=Pattern("plain", random_colour(rng)),
        hat=random_pattern(rng) if rng.random() < 0.2 else None,
        brim=bool(rng.random() < 0.5),
        bag=random_pattern(rng) if rng.random() < 0.25 else None,
        backpack=bool(rng.random() < 0.5),
        build=float(rng.uniform(0.85, 1.3)),
    )
    if like is None:
        return outfit
    same_bottom = rng.random() < 0.5 or outfit.cut == "dress"
    return replace(
        outfit,
        top=like.top,
        bottom=like.bottom if same_bottom else outfit.bottom,
        cut=like.cut if same_bottom else outfit.cut,
        sleeves=like.sleeves,
    )


FOOT = 0.7  # statures below the middle of the canvas


def paint_prop(rng: np.random.Generator, stature: float, light: float) -> Sprite:
    """Paint a random prop about as high as a person of `stature` pixels; it is not a person."""
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
    """Paint a pole with a ball or a plate on top, which resembles limb and head."""
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
    """Paint a shirt on a stand, which resembles a torso."""
    pole = Pattern("plain", random_colour(rng))
    canvas.limb(np.array([0.0, -0.2]), np.array([0.0, FOOT]), (0.012, 0.012), pole, Part.NONE)
    canvas.limb(np.array([-0.12, FOOT]), np.array([0.12, FOOT]), (0.012, 0.012), pole, Part.NONE)
    half = rng.uniform(0.1, 0.14)
    left = np.array([[-0.04, -0.2], [-half, -0.17], [-half * 0.8, 0.12]])
    cloth = np.concatenate([left, left[::-1] * [-1, 1]])
    axis = (np.array([0.0, -0.2]), np.array([0.0, 0.12]))
    canvas.fill(cloth, axis, half, random_pattern(rng), Part.NONE)


def _low_box(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a crate, bench or bollard that hides legs."""
    half, tall = rng.uniform(0.1, 0.45), rng.uniform(0.12, 0.35)
    _box(canvas, (-half, FOOT - tall, half, FOOT), _surface(rng))


def _box(canvas: Canvas, box: tuple[float, float, float, float], pattern: Pattern) -> None:
    x1, y1, x2, y2 = box
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    middle = (x1 + x2) / 2
    canvas.fill(
        outline, (np.array([middle, y1]), np.array([middle, y2])), x2 - x1, pattern, Part.NONE, relief=0.15
    )
