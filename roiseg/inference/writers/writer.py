"""The interface of writers, which take results one at a time and write one format."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from roiseg.common.files import atomic_path, open_text
from roiseg.inference.image_predictions import ImageResult
from roiseg.inference.sources.source import Source

Write = Callable[[ImageResult], object]


class Writer(ABC):
    """Writes one format; holds one result at a time."""

    @abstractmethod
    def place(self, source: Source) -> str:
        """Return the path of its output, relative to the output folder."""

    @abstractmethod
    def open(self, folder: Path, source: Source) -> AbstractContextManager[Write]:
        """Yield a function that writes a result; files about all images are complete when the block ends.

        Args:
            folder: the output folder.
            source: the source of the images.
        """


class FileWriter(Writer):
    """Writes files per image, named after the image, to one folder.

    Args:
        folder: its name in the output folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def place(self, source: Source) -> str:
        """See `Writer`."""
        return f"{self.folder}/"

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """See `Writer`."""
        yield functools.partial(self.write, folder / self.folder)

    @abstractmethod
    def write(self, folder: Path, result: ImageResult) -> None:
        """Write the files of one image to `folder`, atomically."""


def numbered(key: str, number: int, suffix: str) -> str:
    """Return the file name of one instance (from 1) of an image."""
    return f"{key}_{number:03d}{suffix}"


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield a function that adds an item, one per line; the file appears when the block ends."""
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        with json_items(stream) as add:
            yield add
        stream.write("\n")


@contextmanager
def json_items(stream: TextIO) -> Iterator[Callable[[Any], None]]:
    """Yield a function that adds an item, one per line, to a list within a json text."""
    before = "[\n"

    def add(item: Any) -> None:
        nonlocal before
        stream.write(before + json.dumps(item, allow_nan=False, ensure_ascii=False))
        before = ",\n"

    yield add
    stream.write("[]" if before == "[\n" else "\n]")
