"""From what a user writes to the images that are meant."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from roiseg.common.errors import UserError
from roiseg.common.files import require_file
from roiseg.inference.sources.image_files import ImageFiles, below, is_image, without_dots
from roiseg.inference.sources.source import Source
from roiseg.inference.sources.video_file import VideoFile


def open_source(given: str | Sequence[str]) -> Source:
    """Find the images of an image, a folder (with its sub-folders), a glob, a video, or several images.

    What exists by its literal name is never read as a glob. A video stands alone. Names are relative
    to the folder given, to the part of a glob before its first wildcard, to an image's folder; of
    several sources to the folder that holds them all.

    Raises:
        UserError: nothing is there, or no image in it; names the source and what there is.
    """
    given = [given] if isinstance(given, str) else list(given)
    sources = [_open(one) for one in given]
    if len(sources) == 1:
        return sources[0]
    files = [source for source in sources if isinstance(source, ImageFiles)]
    if not files or len(files) < len(sources):
        raise UserError(f"source {', '.join(given) or 'is empty'}: give images, or one video alone")
    root = Path(os.path.commonpath([without_dots(source.root / "_").parent for source in files]))
    return ImageFiles(sorted({without_dots(path) for source in files for path in source.paths}), root)


def _open(given: str) -> Source:
    path = Path(given).expanduser()
    if path.is_dir():
        return _images(below(path), path, f"source {path}: no image in this folder (nor below it)")
    if path.exists() or not glob.has_magic(given):
        path = require_file(path, "source")
        return ImageFiles([path], path.parent) if is_image(path) else VideoFile(path)
    found = [Path(name) for name in glob.iglob(str(path), recursive=True)]
    return _images(
        [p for p in found if p.is_file() and is_image(p)], _fixed_part(path), _nothing(given, found)
    )


def _images(paths: list[Path], root: Path, message: str) -> ImageFiles:
    if not paths:
        raise UserError(message)
    return ImageFiles(paths, root)


def _nothing(given: str, found: list[Path]) -> str:
    what = f"matches {len(found)} files, none of them an image" if found else "matches nothing"
    return f"source {given} {what}: give an image, a folder, a glob or a video"


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before the first with a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) : -1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
