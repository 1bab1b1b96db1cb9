"""Outlines as YOLO's segmentation text files."""

from __future__ import annotations

from pathlib import Path

from roiseg.common.files import atomic_path
from roiseg.inference.pictures import Result
from roiseg.writers.outlines import joined
from roiseg.writers.writer import FileWriter


class YoloSegWriter(FileWriter):
    """A text file a picture, a line an instance: `class x y x y ...`, shares (0..1) of the picture.

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

    def write(self, folder: Path, result: Result) -> None:
        """Write the picture's text file; empty where nobody is."""
        height, width = result.prediction.size
        lines = []
        for pieces in result.prediction.to_polygons():
            if pieces:
                shares = (joined(pieces).astype(float) + 0.5) / (width, height)
                lines.append(" ".join([str(self.class_id), *(f"{value:.6f}" for value in shares.ravel())]))
        with atomic_path(folder / f"{result.frame.key}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
