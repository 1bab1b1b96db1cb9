"""Prepare COCO 2017 in an order that never leaves a partial result."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from roiseg.common.errors import UserError
from roiseg.common.locks import locked
from roiseg.common.outputs import check_folder
from roiseg.data.prepare.example import prepare_example
from roiseg.data.prepare.persons import (
    SPLITS,
    FileReport,
    Layout,
    Prepared,
    layout_of,
    subset,
    write_if_different,
)
from roiseg.data.prepare.sources import FolderSource, WebSource

ImageMode = Literal["link", "copy", "skip"]


def prepare(
    output_dir: str | Path,
    source: str | Path | None,
    sizes: list[PositiveInt],
    seed: int,
    images: ImageMode,
    base_url: str,
    md5: Mapping[str, str],
    example: bool = False,
) -> Prepared:
    """Create the images and person annotations of COCO 2017, or the example's.

    Args:
        output_dir: folder that gets `images/` and `annotations/`.
        source: COCO 2017 folder; None to download.
        sizes: numbers of images in the subsets.
        seed: seed of the subsets.
        images: "link" or "copy" those of `source`, or "skip" them.
        base_url: where the archives are downloaded from.
        md5: checksums of the archives `train2017`, `val2017` and `annotations`.
        example: create only the example, see `prepare_example`.

    Raises:
        UserError: something is missing, unreachable, broken, or does not fit on the disk.
    """
    if example:
        return prepare_example(output_dir, base_url)
    layout = layout_of(output_dir, sizes)
    check_folder(layout.root, "output_dir")
    try:
        with _no_cycle_search():
            return _prepare(layout, source, seed, images, base_url, md5)
    except OSError as error:
        raise UserError(f"{error.strerror or error}: {error.filename or layout.root}") from None


def _prepare(
    layout: Layout,
    source: str | Path | None,
    seed: int,
    images: ImageMode,
    base_url: str,
    md5: Mapping[str, str],
) -> Prepared:
    if source:
        return _make(layout, FolderSource(source, layout, images), seed, images)
    WebSource(base_url, md5, layout, images)  # mistakes are found before anything is written
    with locked(layout.root / ".lock", wait=True):  # checked again after another process
        return _make(layout, WebSource(base_url, md5, layout, images), seed, images)


def _make(layout: Layout, origin: FolderSource | WebSource, seed: int, images: str) -> Prepared:
    # both are read before anything is written, the short one first to find mistakes early
    persons = {split: origin.persons(split) for split in reversed(SPLITS)}
    made: list[Path] = []
    reports: list[FileReport] = []
    for split in SPLITS:
        full = persons[split]
        files = {layout.annotations(split): full}
        files |= {layout.annotations(split, size): subset(full, size, seed) for size in layout.sizes}
        made += [path for path, coco in files.items() if write_if_different(path, coco)]
        reports += [FileReport.of(path, coco) for path, coco in files.items()]
    for split, full in persons.items():
        if images != "skip" and origin.place_images(split, full):
            made.append(layout.images(split))
    origin.finish()
    return Prepared(reports, made)


@contextmanager
def _no_cycle_search() -> Iterator[None]:
    """Pause the garbage collector, which takes most of the time of reading a large json file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
