"""Images out of image files."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from roiseg.data.images import SUFFIXES, read_image
from roiseg.inference.sources.source import Source, SourceImage

log = logging.getLogger(__name__)


class ImageFiles(Source):
    """Image files below one folder, sorted by path; turned as their EXIF record says.

    Args:
        paths: the files.
        root: the folder that their names are relative to; where some lie outside of it, what holds all is.
    """

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths = sorted(paths)
        self.root = root
        if any(name.startswith("../") for name in self.names()):  # a name never leaves an output folder
            self.paths = sorted({path.parent.resolve() / path.name for path in paths})
            self.root = Path(os.path.commonpath([path.parent for path in self.paths]))
        # a.jpg and a.png must not write the same files
        keys = {self._name(path.with_suffix("")) for path in self.paths}
        self._with_suffix = len(keys) < len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> Iterator[str]:
        """`Frame.name` of every file."""
        return map(self._name, self.paths)

    def __iter__(self) -> Iterator[SourceImage]:
        for number, path in enumerate(self.paths):
            key = self._name(path if self._with_suffix else path.with_suffix(""))
            yield SourceImage(key, self._name(path), number, path, functools.partial(read_image, path))

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(without_dots(path), without_dots(self.root / "_").parent)).as_posix()


def without_dots(path: Path) -> Path:
    """An absolute path without `..`, which after a link means another folder than it seems to."""
    return path.parent.resolve() / path.name if ".." in path.parts else path.absolute()


def below(folder: Path) -> list[Path]:
    """Image files in `folder` and its sub-folders; hidden ones left out, others counted in a warning."""
    found, others = [], Counter[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        found += [Path(parent, name) for name in shown if is_image(name)]
        others.update(Path(name).suffix or "without suffix" for name in shown if not is_image(name))
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        log.warning(
            "%s: %d files left out, their names are not those of images: %s", folder, others.total(), kinds
        )
    return found


def without_suffix(name: str) -> str:
    """An image's name without the suffix of an image file, if it has one."""
    return str(PurePosixPath(name).with_suffix("")) if is_image(name) else name


def is_image(path: str | Path) -> bool:
    """Does the name end as an image's does?"""
    return Path(path).suffix.lower() in SUFFIXES
