"""Boxes from a file: the interface of every format, and finding an image by its name."""

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
        scores: [N]; 1 if the file has no scores.
        image_id: the image's id in the file, if any.
        size_matches: the file states the image's size, and it is the actual size.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    image_id: int | None = None
    size_matches: bool = False

    @classmethod
    def of_rows(cls, rows: list[list[float]], image_id: int | None = None) -> ImageBoxes:
        """Build from rows x1, y1, x2, y2, score."""
        table = np.array(rows, np.float32).reshape(-1, 5)
        return cls(as_boxes(table[:, :4]), table[:, 4], image_id)


def as_float32(value: Any) -> float:
    """Return a number as float; NaN for any other value, infinity beyond float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    with np.errstate(over="ignore"), suppress(OverflowError):
        return float(np.float32(value))
    return math.inf


class BoxFile(ABC):
    """The boxes of many images, looked up by the image's name.

    Attributes:
        path: the file or folder.
        has_ids: the file numbers its images (`ImageBoxes.image_id`).
    """

    path: Path
    has_ids: bool = False

    @abstractmethod
    def lists(self, name: str) -> bool:
        """Return whether the file knows the image of this name (`SourceImage.name`)."""

    @abstractmethod
    def find(self, image: SourceImage, size: tuple[int, int]) -> ImageBoxes | None:
        """Return the boxes of an image; None if the file does not know it.

        Args:
            image: the image.
            size: its (H, W) in pixels.

        Raises:
            UserError: the entry is invalid or ambiguous.
        """


class NamedBoxFile(BoxFile):
    """A file that has the images' names, in `_names`."""

    _names: Names

    def lists(self, name: str) -> bool:
        """See `BoxFile`."""
        return bool(self._names.candidates(name))

    def find(self, image: SourceImage, size: tuple[int, int]) -> ImageBoxes | None:
        """See `BoxFile`."""
        name = self._names.find(image.name, image.path)
        return None if name is None else self._read_boxes(name, image, size)

    @abstractmethod
    def _read_boxes(self, name: str, image: SourceImage, size: tuple[int, int]) -> ImageBoxes:
        """Return the boxes of the image that the file calls `name`."""


class Names:
    """The names of the images in a file, which may have more or fewer folders than those of the source.

    A name matches if it is equal, or if one is the end of the other's path; with the image's suffix, then
    without. Folders that both have must be the same.
    """

    def __init__(self, names: Iterable[str], path: Path) -> None:
        self._path = path
        self._tables: list[dict[str, list[str]]] = [{} for _ in _FORMS]  # by the last part
        self._assigned: dict[str, str] = {}  # name in the file -> name of the image that it was found for
        self._warned = False
        for name in names:
            for table, form in zip(self._tables, _FORMS, strict=True):
                table.setdefault(_last(form(name)), []).append(name)

    def find(self, wanted: str, path: Path | None = None) -> str | None:
        """Return the name in the file of the image `wanted`; None if there is none.

        Args:
            wanted: the image's name within the source.
            path: the image file; the folders of the name in the file must be its folders.

        Raises:
            UserError: two names match, or the name was found for another image.
        """
        found = self.candidates(wanted, path)
        if len(found) > 1:
            raise UserError(
                f"boxes file {self._path}: {wanted} could be {found[0]} or {found[1]}: give source as "
                "the folder that the names are relative to"
            )
        if not found:
            return None
        name, exact = found[0], normal_name(wanted) == normal_name(found[0])
        first = self._assigned.setdefault(name, wanted)
        if first != wanted:
            if normal_name(first) == normal_name(name) and not exact:
                return None
            raise UserError(
                f"boxes file {self._path}: {name} could be {first} or {wanted}: write the names "
                "with their folders, relative to source"
            )
        if not self._warned and normal_name(name).count("/") < normal_name(wanted).count("/"):
            self._warned = True
            log.warning("boxes file %s: %s is used for %s, by the file name alone", self._path, name, wanted)
        return name

    def candidates(self, wanted: str, path: Path | None = None) -> list[str]:
        """Return the names in the file that may be the image's, those of the best kind of match."""
        full = None if path is None else os.path.abspath(path)
        matches: list[list[str]] = []
        for table, form in zip(self._tables, _FORMS, strict=True):
            name = form(wanted)
            named = [listed for listed in table.get(_last(name), []) if ends_alike(form(listed), name)]
            exact = [listed for listed in named if form(listed) == name]
            if full is not None:
                named = [listed for listed in named if ends_alike(form(listed), form(full))]
            matches += [exact, named]
        return next((some for some in (matches[0], matches[2], matches[1], matches[3]) if some), [])


def _bare(name: str) -> str:
    return without_suffix(normal_name(name))


def _last(name: str) -> str:
    return name.rpartition("/")[2]


_FORMS = (normal_name, _bare)
