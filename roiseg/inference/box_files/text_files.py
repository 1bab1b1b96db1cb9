"""Boxes from YOLO text files, and from a CSV table."""

from __future__ import annotations

import csv
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


_CORNERS = ("x1", "y1", "x2", "y2")


class CsvBoxes(NamedBoxFile):
    """One box per line under the header `file,x1,y1,x2,y2`, optionally `score`; other columns are ignored.

    Corners are in pixels of the image. For a video `file` is the frame's key, `NAME_000042`.

    Args:
        path: the file, UTF-8.

    Raises:
        UserError: a column is missing or a value is wrong; names file, line and column.
    """

    def __init__(self, path: Path) -> None:
        self.path = require_file(path, "boxes")
        self._rows: dict[str, list[list[float]]] = {}
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as stream:
                self._read(csv.DictReader(stream, skipinitialspace=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"boxes file {path} is not a CSV table in UTF-8 ({error}): save it as one"
            ) from None
        self._names = Names(self._rows, path)

    def _read_boxes(self, name: str, image: SourceImage, size: tuple[int, int]) -> ImageBoxes:
        return ImageBoxes.of_rows(self._rows[name])

    def _read(self, table: csv.DictReader[str]) -> None:
        columns = [name or "" for name in table.fieldnames or []]
        if missing := [name for name in ("file", *_CORNERS) if name not in columns]:
            raise UserError(
                f"line 1 of boxes file {self.path}: column `{missing[0]}` is missing from the header "
                f"({','.join(columns) or 'empty'}); it must have file,x1,y1,x2,y2 and may have score"
            )
        for row in table:
            where = f"line {table.line_num} of boxes file {self.path}"
            if not row["file"]:
                raise UserError(f"{where}: `file` is empty")
            x1, y1, x2, y2 = (_number(row[name], name, where) for name in _CORNERS)
            if x2 <= x1 or y2 <= y1:
                low, high = ("x1", "x2") if x2 <= x1 else ("y1", "y2")
                raise UserError(
                    f"{where}: `{high}` is {row[high]}, it must be more than {low}, which is {row[low]} "
                    "(give corners, not width and height)"
                )
            score = _number(row["score"], "score", where) if row.get("score") else 1.0
            self._rows.setdefault(row["file"], []).append([x1, y1, x2, y2, score])


def _number(text: str | None, column: str, where: str) -> float:
    try:
        value = as_float32(float(text or ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: `{column}` must be a number, got {text!r:.80}")
    return value
