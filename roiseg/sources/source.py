"""What pictures come from: files or the frames of a video, one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        key: what files about it are called: its path within the source without suffix, parts joined by `/`.
        name: what it is called in lists: the same with suffix; of a video's frame the key.
        number: 0-based, in the order of the source.
        path: the image file; None for a frame of a video.
        read: returns the picture, RGB uint8 [H, W, 3]; raises UserError where it is damaged.
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
    """Pictures in a fixed order; holds one at a time.

    Attributes:
        video: what a video out of results looks like; None where the pictures are files.
    """

    video: Video | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of pictures; of a video about, as its header has it."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """`Frame.name` of every picture, without reading any."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """All pictures."""
