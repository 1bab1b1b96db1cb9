"""What a person wears: colours, patterns and cuts."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from roiseg.data.synthetic.canvas import Pattern

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
    """Colours and cuts of one figure.

    Attributes:
        skin: pattern of bare skin.
        hair: pattern of the hair.
        long_hair: hair reaches the shoulders.
        top: pattern of what covers the torso.
        sleeves: "none", "short" or "long".
        bottom: pattern of what covers the hips.
        cut: "trousers", "shorts", "skirt" or "dress".
        shoes: pattern of the shoes.
        hat: pattern of a hat, or None.
        brim: the hat has a brim all round.
        bag: pattern of a bag, or None.
        backpack: the bag is worn on the back, else it hangs from a hand.
        build: thickness of the limbs, 1 is average.
    """

    skin: Pattern
    hair: Pattern
    long_hair: bool
    top: Pattern
    sleeves: str
    bottom: Pattern
    cut: str
    shoes: Pattern
    hat: Pattern | None
    brim: bool
    bag: Pattern | None
    backpack: bool
    build: float


def random_colour(rng: np.random.Generator) -> Colour:
    """Draw a clothing colour: often grey or muted, at times saturated."""
    muted = rng.random() < 0.45
    saturation = rng.uniform(0, 0.25) if muted else rng.uniform(0.3, 0.9)
    value = rng.uniform(0.08, 0.97) if muted else rng.uniform(0.25, 0.95)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return 255 * red, 255 * green, 255 * blue


def random_pattern(rng: np.random.Generator, colour: Colour | None = None) -> Pattern:
    """Draw a surface: plain half of the time."""
    kind = str(
        rng.choice(["plain", "stripes", "bands", "checks", "gradient"], p=[0.5, 0.12, 0.14, 0.12, 0.12])
    )
    first = colour or random_colour(rng)
    return Pattern(kind, first, random_colour(rng), float(rng.uniform(0.035, 0.09)))


def random_outfit(rng: np.random.Generator, like: Outfit | None = None) -> Outfit:
    """Draw an outfit; with `like`, one of the same team (equal top, and at times equal bottom)."""
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
