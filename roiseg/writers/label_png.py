"""Instances as pictures of their numbers."""

from __future__ import annotations

from pathlib import Path

from roiseg.inference.pictures import Result
from roiseg.writers.picture_files import write_labels
from roiseg.writers.writer import FileWriter


class LabelPngWriter(FileWriter):
    """A 16-bit PNG a picture: 0 where nobody is, else the instance's number from 1.

    Where two overlap, the smaller one shows, as in all outputs (`Prediction.label_map`). Numbers are those
    of the other formats; most viewers show them as black.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: str = "labels") -> None:
        super().__init__(folder)

    def write(self, folder: Path, result: Result) -> None:
        """Write the picture's PNG."""
        write_labels(folder / f"{result.frame.key}.png", result.prediction.label_map())
