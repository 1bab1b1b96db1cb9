"""Numbers for pictures, where a format wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from roiseg.sources.source import Frame, Source


def image_ids(source: Source) -> Callable[[Frame], int]:
    """The number a picture's file name is, where all are numbers and differ; else its place, from 1."""
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
