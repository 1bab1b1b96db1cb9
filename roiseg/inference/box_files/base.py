"""Boxes somebody else has found: what every kind of file gives."""

from __future__ import annotations

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.common.files import ends_alike, normal_name
from roiseg.geometry.boxes import Boxes, as_boxes
from roiseg.inference.sources.image_files import without_suffix
from roiseg.inference.sources.source import SourceImage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image.

    Attributes:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the image.
        scores: [N]; 1 where the file has none.
        image_id: the image's id in the file, if it has one.
        sized: the file says of which size the image is, and it is.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    image_id: int | None = None
    sized: bool = False

    @classmethod
    def of_rows(cls, rows: list[list[float]], image_id: int | None = None) -> ImageBoxes:
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
    """Boxes of many images, found by the image's name.

    Attributes:
        path: the file or folder.
        has_ids: images have numbers in it (`ImageBoxes.image_id`).
    """

    path: Path
    has_ids: bool = False

    @abstractmethod
    def lists(self, frame_name: str) -> bool:
        """Does it say anything about the image of this name (`Frame.name`)?"""

    @abstractmethod
    def find(self, frame: SourceImage, size: tuple[int, int]) -> ImageBoxes | None:
        """The boxes of an image; None where the file does not know it.

        Args:
            frame: the image.
            size: its (H, W) in pixels.

        Raises:
            UserError: what the file says of it is wrong, or more than one image is meant.
        """


class Names:
    """The names of images in a file, found however much of the path each side has.

    A name is looked for as it is, then as the end of a longer path, or a longer path's end; each with and
    without the suffix of an image. Folders that both sides have must be the same.
    """

    def __init__(self, names: Iterable[str], path: Path) -> None:
        self._path = path
        self._tables: list[dict[str, list[str]]] = [{} for _ in _FORMS]  # by the last part
        self._taken: dict[str, str] = {}
        self._told = False
        for name in names:
            for table, form in zip(self._tables, _FORMS, strict=True):
                table.setdefault(_last(form(name)), []).append(name)

    def knows(self, wanted: str) -> bool:
        """Is there a name for this image, or more than one?"""
        return bool(self._candidates(wanted, None))

    def find(self, wanted: str, path: Path | None = None) -> str | None:
        """The name in the file that means the image `wanted`; None where there is none.

        Args:
            wanted: its name within the source.
            path: its file; folders of the name in the file must be those the image lies in.

        Raises:
            UserError: there are two, or another image has had this one.
        """
        found = self._candidates(wanted, path)
        if len(found) > 1:
            raise UserError(
                f"boxes file {self._path}: {wanted} could be {found[0]} or {found[1]}: give source as "
                "the folder that the names are relative to"
            )
        if not found:
            return None
        name, exact = found[0], normal_name(wanted) == normal_name(found[0])
        first = self._taken.setdefault(name, wanted)
        if first != wanted:
            if normal_name(first) == normal_name(name) and not exact:
                return None
            raise UserError(
                f"boxes file {self._path}: {name} could be {first} or {wanted}: write the names "
                "with their folders, relative to source"
            )
        if not self._told and normal_name(name).count("/") < normal_name(wanted).count("/"):
            self._told = True
            log.warning("boxes file %s: %s is taken for %s, by its name alone", self._path, name, wanted)
        return name

    def _candidates(self, wanted: str, path: Path | None) -> list[str]:
        whole = None if path is None else os.path.abspath(path)
        alike: list[list[str]] = []
        for table, form in zip(self._tables, _FORMS, strict=True):
            name = form(wanted)
            named = [listed for listed in table.get(_last(name), []) if ends_alike(form(listed), name)]
            exact = [listed for listed in named if form(listed) == name]
            if whole is not None:
                named = [listed for listed in named if ends_alike(form(listed), form(whole))]
            alike += [exact, named]
        return next((some for some in (alike[0], alike[2], alike[1], alike[3]) if some), [])


def _bare(name: str) -> str:
    return without_suffix(normal_name(name))


def _last(name: str) -> str:
    return name.rpartition("/")[2]


_FORMS = (normal_name, _bare)
