"""Images from files, and `open_source`, which finds the images or the video that the user names."""

from __future__ import annotations

import functools
import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from roiseg.common.errors import UserError
from roiseg.common.files import home_path, require_file
from roiseg.data.images import SUFFIXES, read_image
from roiseg.inference.sources.source import Source, SourceImage
from roiseg.inference.sources.video_file import VideoFile

log = logging.getLogger(__name__)


def open_source(sources: str | Sequence[str]) -> Source:
    """Open an image, a folder (recursively), a glob, a video, or several images.

    An existing path is never read as a glob. Names are relative to the folder, to the part of a glob before
    its first wildcard, or to an image's folder; those of several sources to their common folder.

    Raises:
        UserError: nothing is found, or it contains no image.
    """
    names = [sources] if isinstance(sources, str) else list(sources)
    opened = [_open(name) for name in names]
    if len(opened) == 1:
        return opened[0]
    files = [source for source in opened if isinstance(source, ImageFiles)]
    if not files or len(files) < len(opened):
        raise UserError(f"source {', '.join(names) or 'is empty'}: give images, or a single video")
    root = Path(os.path.commonpath([without_dots(source.root / "_").parent for source in files]))
    return ImageFiles(sorted({without_dots(path) for source in files for path in source.paths}), root)


def _open(name: str) -> Source:
    path = home_path(name)
    if path.is_dir():
        return _images(below(path), path, f"source {path}: no image in this folder or below it")
    if path.exists() or not glob.has_magic(name):
        path = require_file(path, "source")
        return ImageFiles([path], path.parent) if is_image(path) else VideoFile(path)
    found = [Path(match) for match in glob.iglob(str(path), recursive=True)]
    return _images(
        [p for p in found if p.is_file() and is_image(p)], _fixed_part(path), _nothing(name, found)
    )


def _images(paths: list[Path], root: Path, message: str) -> ImageFiles:
    if not paths:
        raise UserError(message)
    return ImageFiles(paths, root)


def _nothing(name: str, found: list[Path]) -> str:
    what = f"matches {len(found)} files, none of them an image" if found else "matches nothing"
    return f"source {name} {what}: give an image, a folder, a glob or a video"


def _fixed_part(pattern: Path) -> Path:
    """Return the folders of a glob before the first with a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) : -1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


class ImageFiles(Source):
    """Image files below one folder, sorted by path; turned as their EXIF record says.

    Args:
        paths: the files.
        root: the folder that names are relative to; their common folder if some lie outside.
    """

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths = sorted(paths)
        self.root = root
        if any(name.startswith("../") for name in self.names()):  # names must stay inside an output folder
            self.paths = sorted({path.parent.resolve() / path.name for path in paths})
            self.root = Path(os.path.commonpath([path.parent for path in self.paths]))
        # a.jpg and a.png must not write the same files
        keys = {self._name(path.with_suffix("")) for path in self.paths}
        self._with_suffix = len(keys) < len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> Iterator[str]:
        """See `Source`."""
        return map(self._name, self.paths)

    def __iter__(self) -> Iterator[SourceImage]:
        for number, path in enumerate(self.paths):
            key = self._name(path if self._with_suffix else path.with_suffix(""))
            yield SourceImage(key, self._name(path), number, path, functools.partial(read_image, path))

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(without_dots(path), without_dots(self.root / "_").parent)).as_posix()


def without_dots(path: Path) -> Path:
    """Return the absolute path with `..` and the links before it resolved."""
    return path.parent.resolve() / path.name if ".." in path.parts else path.absolute()


def below(folder: Path) -> list[Path]:
    """Return the image files in a folder and its sub-folders, without hidden ones; warn of other files."""
    found, others = [], Counter[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        found += [Path(parent, name) for name in shown if is_image(name)]
        others.update(Path(name).suffix or "without suffix" for name in shown if not is_image(name))
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        log.warning("%s: %d files ignored because of their suffix: %s", folder, others.total(), kinds)
    return found


def without_suffix(name: str) -> str:
    """Return a name without its image suffix, if it has one."""
    return str(PurePosixPath(name).with_suffix("")) if is_image(name) else name


def is_image(path: str | Path) -> bool:
    """Return whether a path has an image suffix."""
    return Path(path).suffix.lower() in SUFFIXES
