"""Outlines as YOLO's segmentation text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roiseg.common.files import atomic_path
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.writers.writer import FileWriter


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


class YoloSegWriter(FileWriter):
    """A text file an image, a line an instance: `class x y x y ...`, shares (0..1) of the image.

    The format has one outline an instance: pieces are joined by bridges without width, holes are filled,
    pieces of one or two pixels are left out. A point is the middle of a pixel at the edge: pixel i is
    (i + 0.5) / width, which truncates to the pixel's index. Who has no pixel has no line.

    Args:
        folder: where the files go.
        class_id: of all instances.
    """

    def __init__(self, folder: str = "yolo_seg", class_id: int = 0) -> None:
        super().__init__(folder)
        self.class_id = class_id

    def write(self, folder: Path, result: ImageResult) -> None:
        """Write the image's text file; empty where nobody is."""
        height, width = result.prediction.size
        lines = []
        for pieces in result.prediction.to_polygons():
            if pieces:
                shares = (joined(pieces).astype(float) + 0.5) / (width, height)
                lines.append(" ".join([str(self.class_id), *(f"{value:.6f}" for value in shares.ravel())]))
        with atomic_path(folder / f"{result.frame.key}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
