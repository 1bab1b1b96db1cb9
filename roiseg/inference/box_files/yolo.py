"""Boxes from YOLO text files."""

from __future__ import annotations

import math
from pathlib import Path

from roiseg.common.errors import UserError
from roiseg.common.files import require_file
from roiseg.geometry.boxes import denormalize, from_cxcywh
from roiseg.inference.box_files.base import ImageBoxes, NamedBoxFile, Names, as_float32
from roiseg.inference.sources.source import SourceImage


class YoloBoxes(NamedBoxFile):
    """One text file per image, with the image's name; one box per line: `class cx cy width height [score]`.

    Coordinates are fractions (0..1) of the image. An image whose file is missing or empty has no boxes. A
    file is read when its image is processed.

    Args:
        path: the folder of these files, or the file of one image.
        class_id: the class to read.
    """

    def __init__(self, path: Path, class_id: int = 0) -> None:
        self.path = path if path.is_dir() else require_file(path, "boxes")
        self._class_id = class_id
        folder = self.path if self.path.is_dir() else self.path.parent
        files = self.path.rglob("*.txt") if self.path.is_dir() else [self.path]
        self._files = {file.relative_to(folder).as_posix().removesuffix(".txt"): file for file in files}
        self._names = Names(self._files, self.path)

    def _read_boxes(self, name: str, image: SourceImage, size: tuple[int, int]) -> ImageBoxes:
        path = self._files[name]
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"boxes file {path} cannot be read as text ({error})") from None
        found = [
            _values(line.split(), f"line {n} of boxes file {path}")
            for n, line in enumerate(lines, 1)
            if line.strip()
        ]
        chosen = [values for values in found if values[0] == self._class_id]
        corners = denormalize(from_cxcywh([values[1:5] for values in chosen]), size).tolist()
        return ImageBoxes.of_rows([[*box, values[5]] for box, values in zip(corners, chosen, strict=True)])


def _values(words: list[str], where: str) -> list[float]:
    """Parse class, centre x, centre y, width, height, score."""
    if len(words) not in (5, 6):
        raise UserError(
            f"{where} has {len(words)} values, a box has 5 or 6: class cx cy width height [score]"
            + (" (these look like outlines)" if len(words) > 6 else "")
        )
    try:
        values = [as_float32(float(word)) for word in words]
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    for name, value in zip(("class", "cx", "cy", "width", "height", "score"), values, strict=False):
        if not math.isfinite(value):
            raise UserError(f"{where}: `{name}` must be a number, got {value}")
        if name in ("width", "height") and not 0 < value <= 1:
            raise UserError(f"{where}: `{name}` is {value:g}, it must be a fraction of the image")
        if name in ("cx", "cy") and not 0 <= value <= 1:
            raise UserError(f"{where}: `{name}` is {value:g}, it must be a fraction of the image")
    return values if len(values) == 6 else [*values, 1.0]
