"""What images come from: files or the frames of a video, one after another."""

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
        key: what files about it are called: its path within the source without suffix, parts joined by `/`.
        name: what it is called in lists: the same with suffix; of a video's frame the key.
        number: 0-based, in the order of the source.
        path: the image file; None for a frame of a video.
        read: returns the image, RGB uint8 [H, W, 3]; raises UserError where it is damaged.
    """

    key: str
    name: str
    number: int
    path: Path | None
    read: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Video:
    """What a video is apart from its frames."""

    name: str  # file name without suffix
    size: tuple[int, int]  # (H, W) of its frames in pixels
    fps: float  # frames a second


class Source(ABC):
    """Images in a fixed order; holds one at a time.

    Attributes:
        video: what a video out of results looks like; None where the images are files.
    """

    video: Video | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of images; of a video about, as its header has it."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """`Frame.name` of every image, without reading any."""

    @abstractmethod
    def __iter__(self) -> Iterator[SourceImage]:
        """All images."""


def image_ids(source: Source) -> Callable[[SourceImage], int]:
    """The number an image's file name is, where all are numbers and differ; else its place, from 1."""
    numbers: set[int] = set()
    for name in source.names():
        number = name_number(name)
        if number is None or number in numbers:
            return lambda frame: frame.number + 1
        numbers.add(number)
    return lambda frame: int(PurePosixPath(frame.key).name)


def name_number(name: str) -> int | None:
    """139 of `train/000000000139.jpg`; None where a file name is no number."""
    stem = PurePosixPath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else None
