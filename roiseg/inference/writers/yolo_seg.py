"""Write outlines as YOLO segmentation text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roiseg.common.files import atomic_path
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.writers.writer import FileWriter


def join_outlines(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join outlines into one by bridges of zero width, which keep the area.

    Each part is connected by the shortest bridge to those before it. A rasteriser that draws the outline
    also draws the bridges, one pixel wide.

    Args:
        parts: at least one [P, 2].

    Returns:
        [Q, 2].
    """
    outline = parts[0]
    for part in parts[1:]:
        distances = ((outline[:, None] - part[None]) ** 2).sum(-1)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        around = np.concatenate([part[there:], part[: there + 1]])
        outline = np.concatenate([outline[: here + 1], around, outline[here:]])
    return outline


class YoloSegWriter(FileWriter):
    """One text file per image, one line per instance: `class x y x y ...`, fractions (0..1) of the image.

    The format has one outline per instance: parts are joined by bridges of zero width, holes are filled,
    parts of one or two pixels are left out. A point is the centre of a border pixel: pixel i is
    (i + 0.5) / width, which truncates to the pixel's index. An empty mask has no line.

    Args:
        folder: of the files.
        class_id: of all instances.
    """

    def __init__(self, folder: str = "yolo_seg", class_id: int = 0) -> None:
        super().__init__(folder)
        self.class_id = class_id

    def write(self, folder: Path, result: ImageResult) -> None:
        """See `FileWriter`."""
        height, width = result.prediction.size
        lines = []
        for parts in result.prediction.to_polygons():
            if parts:
                points = (join_outlines(parts).astype(float) + 0.5) / (width, height)
                lines.append(" ".join([str(self.class_id), *(f"{value:.6f}" for value in points.ravel())]))
        with atomic_path(folder / f"{result.source_image.key}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
