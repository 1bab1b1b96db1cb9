"""What a writer is: takes results one after another and leaves files of one kind."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from roiseg.inference.pictures import Result
from roiseg.sources.source import Source

Write = Callable[[Result], None]


class Writer(ABC):
    """Writes one format. Holds no more than one result at a time."""

    @abstractmethod
    def place(self, source: Source) -> str:
        """What it leaves, relative to the output folder."""

    @abstractmethod
    def open(self, folder: Path, source: Source) -> AbstractContextManager[Write]:
        """Yield the function that takes results; what goes over all pictures is whole when the block ends.

        Args:
            folder: the output folder.
            source: where the pictures are from.
        """


class FileWriter(Writer):
    """Writes each picture's result in files of its own, named by the picture, in one folder.

    Args:
        folder: its name, within the output folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def place(self, source: Source) -> str:
        """The folder."""
        return f"{self.folder}/"

    @contextmanager
    def open(self, folder: Path, source: Source) -> Iterator[Write]:
        """Nothing is kept open."""
        yield functools.partial(self.write, folder / self.folder)

    @abstractmethod
    def write(self, folder: Path, result: Result) -> None:
        """Write one picture's files below `folder`, each whole or not at all."""


def numbered(key: str, number: int, suffix: str) -> str:
    """Name of the file about one instance (from 1) of a picture."""
    return f"{key}_{number:03d}{suffix}"
