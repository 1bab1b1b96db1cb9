"""Sources of images: files, or the frames of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        key: name of output files: its path within the source without suffix, parts joined by `/`.
        name: name in lists: the same with suffix; for a video's frame the key.
        number: 0-based index in the source.
        path: the image file; None for a video's frame.
        read: returns the image, RGB uint8 [H, W, 3]; raises UserError where it is damaged.
    """

    key: str
    name: str
    number: int
    path: Path | None
    read: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Video:
    """Properties of a video."""

    name: str  # file name without suffix
    size: tuple[int, int]  # (H, W) of its frames in pixels
    fps: float  # frames per second


class Source(ABC):
    """Images in a fixed order, one in memory at a time.

    Attributes:
        video: properties of the video; None for image files.
    """

    video: Video | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images; for a video the estimate in its header."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Iterate over `SourceImage.name` without reading images."""

    @abstractmethod
    def __iter__(self) -> Iterator[SourceImage]:
        """Iterate over the images."""


def image_ids(source: Source) -> Callable[[SourceImage], int]:
    """Return a function to ids: the file name if all are distinct numbers, else the place from 1."""
    numbers: set[int] = set()
    for name in source.names():
        number = name_number(name)
        if number is None or number in numbers:
            return lambda image: image.number + 1
        numbers.add(number)
    return lambda image: int(PurePosixPath(image.key).name)


def name_number(name: str) -> int | None:
    """Return 139 for `train/000000000139.jpg`; None if the file name is not a number."""
    stem = PurePosixPath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else None
