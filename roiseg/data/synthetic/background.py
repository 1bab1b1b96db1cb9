"""What lies behind the people: rooms, streets, lawns - gradients, textures and flat clutter."""

from __future__ import annotations

import cv2
import numpy as np

from roiseg.data.synthetic.outfit import SKIN, random_colour


def paint_background(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    """Paint a wall or sky above a floor.

    Args:
        rng: decides everything.
        size: (height, width), pixels.
        horizon: row at which the ground begins, pixels.

    Returns:
        RGB 0..255, float32 `[height, width, 3]`.
    """
    height, width = size
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    above = _ramp(rows / max(horizon, 1), rng)
    below = _ramp((rows - horizon) / max(height - horizon, 1), rng)
    picture = np.where(rows < horizon, above, below) * np.ones((1, width, 1), np.float32)
    for _ in range(int(rng.integers(2, 9))):
        _clutter(picture, rng, horizon)
    if rng.random() < 0.35:
        _tiles(picture, rng, int(horizon))
    picture += _octaves(rng, size) * rng.uniform(3, 18)
    return np.clip(picture, 0, 255)


def _ramp(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour gradient over `share` (0..1 within its half of the picture)."""
    first, second = (70 + 0.72 * np.array(random_colour(rng)) for _ in range(2))
    second = first * 0.6 + second * 0.4
    share = np.clip(share, 0, 1)
    return (first * (1 - share) + second * share).astype(np.float32)


def _octaves(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Texture of zero mean and about unit spread: noise at several scales, partly coloured."""
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40, 120):
        grain = rng.standard_normal((cells * height // width + 1, cells, 3)).astype(np.float32)
        grain = grain * 0.3 + grain[..., :1] * 0.7
        total += rng.uniform(0.1, 0.9) * cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return total


def _clutter(picture: np.ndarray, rng: np.random.Generator, horizon: float) -> None:
    """Draw one flat thing: window, panel, patch or line, at times in the colour of skin."""
    height, width = picture.shape[:2]
    colour = SKIN[rng.integers(len(SKIN))] if rng.random() < 0.2 else random_colour(rng)
    x, y = int(rng.uniform(-0.1, 1.0) * width), int(rng.uniform(-0.1, 0.9) * height)
    w, h = int(width * rng.uniform(0.04, 0.3)), int(height * rng.uniform(0.05, 0.5))
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(picture, (x, y), (x + w, y + h), colour, -1)
        if rng.random() < 0.5:
            cv2.rectangle(picture, (x, y), (x + w, y + h), random_colour(rng), 2)
    elif kind == 1:
        axes, turn = (w // 2 + 2, h // 3 + 2), float(rng.uniform(0, 180))
        cv2.ellipse(picture, (x, y), axes, turn, 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        angle = rng.uniform(0, np.pi)
        end = (int(x + 0.6 * width * np.cos(angle)), int(y + 0.6 * width * np.sin(angle)))
        cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 9)), cv2.LINE_AA)
    else:
        _windows(picture, rng, (x, min(y, int(horizon))), (w + 20, h + 20))


def _windows(
    picture: np.ndarray, rng: np.random.Generator, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    wall, glass = random_colour(rng), random_colour(rng)
    x, y = corner
    cv2.rectangle(picture, corner, (x + size[0], y + size[1]), wall, -1)
    step = int(rng.integers(9, 22))
    for top in range(y + 3, y + size[1] - step // 2, step):
        for left in range(x + 3, x + size[0] - step // 2, step):
            cv2.rectangle(picture, (left, top), (left + step // 2, top + step * 2 // 3), glass, -1)


def _tiles(picture: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    """Draw the joints of a tiled floor in perspective."""
    height, width = picture.shape[:2]
    joint = random_colour(rng)
    vanish = (int(rng.uniform(0.2, 0.8) * width), horizon)
    for x in range(-width, 2 * width, int(rng.integers(30, 70))):
        cv2.line(picture, vanish, (x, height), joint, 1, cv2.LINE_AA)
    row = 4.0
    while horizon + row < height:
        cv2.line(picture, (0, int(horizon + row)), (width, int(horizon + row)), joint, 1)
        row *= 1.45
