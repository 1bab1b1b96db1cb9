"""Boxes somebody else has found: what every kind of file gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.geometry.boxes import Boxes, as_boxes
from roiseg.sources.image_files import without_suffix
from roiseg.sources.source import Frame


@dataclass(frozen=True)
class GivenBoxes:
    """The boxes of one picture.

    Attributes:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the picture.
        scores: [N]; 1 where the file has none.
        image_id: the picture's id in the file, if it has one.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    image_id: int | None = None

    @classmethod
    def of_rows(cls, rows: list[list[float]], image_id: int | None = None) -> GivenBoxes:
        """From rows x1, y1, x2, y2, score."""
        table = np.array(rows, np.float32).reshape(-1, 5)
        return cls(as_boxes(table[:, :4]), table[:, 4], image_id)


def as_float32(value: Any) -> float:
    """Return a number as float; NaN for anything else, infinity where float32 ends."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    with np.errstate(over="ignore"), suppress(OverflowError):
        return float(np.float32(value))
    return math.inf


class BoxFile(ABC):
    """Boxes of many pictures, found by the picture's name.

    Attributes:
        path: the file or folder.
        has_ids: pictures have numbers in it (`GivenBoxes.image_id`).
    """

    path: Path
    has_ids: bool = False

    @abstractmethod
    def lists(self, frame_name: str) -> bool:
        """Does it say anything about the picture of this name (`Frame.name`)?"""

    @abstractmethod
    def find(self, frame: Frame, size: tuple[int, int]) -> GivenBoxes | None:
        """The boxes of a picture; None where the file does not know it.

        Args:
            frame: the picture.
            size: its (H, W) in pixels.

        Raises:
            UserError: what the file says of it is wrong, or more than one picture is meant.
        """


class Names:
    """The names of pictures in a file, found however much of the path each side has.

    A name is looked for as it is, then without suffix, then by its last part, then by that without
    suffix; the first kind that finds one wins.
    """

    def __init__(self, names: Iterable[str], path: Path) -> None:
        self._path = path
        self._tables: list[dict[str, list[str]]] = [{} for _ in _FORMS]
        self._taken: dict[str, str] = {}
        for name in names:
            for table, form in zip(self._tables, _FORMS, strict=True):
                table.setdefault(form(name), []).append(name)

    def knows(self, wanted: str) -> bool:
        """Is there a name for this picture, or more than one?"""
        return any(form(wanted) in table for table, form in zip(self._tables, _FORMS, strict=True))

    def find(self, wanted: str) -> str | None:
        """The name in the file that means the picture `wanted`; None where there is none.

        Raises:
            UserError: there are two, or another picture has had this one.
        """
        for table, form in zip(self._tables, _FORMS, strict=True):
            found = table.get(form(wanted), [])
            if len(found) > 1:
                raise UserError(
                    f"boxes file {self._path}: {wanted} could be {found[0]} or {found[1]}: give source as "
                    "the folder that the names are relative to"
                )
            if found:
                first = self._taken.setdefault(found[0], wanted)
                if first != wanted:
                    raise UserError(
                        f"boxes file {self._path}: {found[0]} could be {first} or {wanted}: write the names "
                        "with their folders, relative to source"
                    )
                return found[0]
        return None


def _whole(name: str) -> str:
    return name.replace("\\", "/")


def _bare(name: str) -> str:
    return without_suffix(_whole(name))


def _last(name: str) -> str:
    return _whole(name).rpartition("/")[2]


_FORMS = (_whole, _bare, _last, lambda name: _last(_bare(name)))
