"""One outline for an instance that has several pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def joined(pieces: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join outlines into one that goes through all of them, over bridges without width.

    Each piece is entered and left through the shortest bridge to those before it, so that the area
    inside stays the same; a rasteriser that draws the outline too draws the bridges, a pixel wide.

    Args:
        pieces: at least one [P, 2].

    Returns:
        [Q, 2].
    """
    outline = pieces[0]
    for piece in pieces[1:]:
        distances = ((outline[:, None] - piece[None]) ** 2).sum(-1)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        around = np.concatenate([piece[there:], piece[: there + 1]])
        outline = np.concatenate([outline[: here + 1], around, outline[here:]])
    return outline
