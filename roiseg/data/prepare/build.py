"""Prepare COCO 2017, or its example, in an order that never leaves a partial result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, read_json
from roiseg.common.locks import locked
from roiseg.common.outputs import check_folder
from roiseg.data.coco_reader import no_garbage_collection
from roiseg.data.prepare.download import fetch
from roiseg.data.prepare.persons import (
    SPLITS,
    FileReport,
    Layout,
    Prepared,
    layout_of,
    subset,
    write_if_different,
)
from roiseg.data.prepare.sources import Checksums, FolderSource, Url, WebSource, require_space

# annotations (CC BY 4.0, COCO Consortium) and checksums of the images
_FILES = Path(__file__).with_name("coco128")
_SIZE = 20e6


def prepare_example(output_dir: str | Path, base_url: str) -> Prepared:
    """Create `coco128_person/` in a folder: the images, downloaded one by one, and their annotations.

    Both splits are of COCO's train2017; a seeded shuffle made 15 of the 61 images val2017.

    Args:
        output_dir: folder that gets `coco128_person/`.

    Raises:
        UserError: an image cannot be downloaded, or the folder cannot be written.
    """
    layout = layout_of(Path(output_dir) / "coco128_person", [])
    check_folder(layout.root, "output_dir")
    require_space(layout.root, int(_SIZE), "the example")
    made: list[Path] = []
    with locked(layout.root / ".lock", wait=True):
        for line in (_FILES / "sha256.txt").read_text(encoding="utf-8").splitlines():
            checksum, name = line.split()
            path = layout.root / "images" / name
            if not path.exists():
                made.append(path)
            url = f"{base_url.rstrip('/')}/train2017/{path.name}"
            remedy = f"set base_url to a mirror, or copy {path.name} of COCO's train2017 into {path.parent}"
            fetch(url, path, checksum, remedy)
        reports = []
        for split in SPLITS:
            path = layout.annotations(split)
            content = (_FILES / path.name).read_bytes()
            if not path.is_file() or path.read_bytes() != content:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
                made.append(path)
            reports.append(FileReport.of(path, read_json(path, "annotations")))
    return Prepared(reports, made)


ImageMode = Literal["link", "copy", "skip"]


def prepare(
    output_dir: Annotated[str, Field(min_length=1)] | Path,
    source: str | Path | None,
    sizes: list[PositiveInt],
    seed: int,
    images: ImageMode,
    base_url: Url,
    md5: Checksums,
    example: bool = False,
) -> Prepared:
    """Create the images and person annotations of COCO 2017, or the example's.

    Args:
        output_dir: folder that gets `images/` and `annotations/`.
        images: "link" or "copy" those of `source`, or "skip" them.

    Raises:
        UserError: something is missing, unreachable, broken, or does not fit on the disk.
    """
    if example:
        return prepare_example(output_dir, base_url)
    layout = layout_of(output_dir, sizes)
    check_folder(layout.root, "output_dir")
    try:
        with no_garbage_collection():
            if source:
                return _make(layout, FolderSource(source, layout, images), seed, images)
            WebSource(base_url, md5, layout, images)  # mistakes are found before anything is written
            with locked(layout.root / ".lock", wait=True):  # checked again after another process
                return _make(layout, WebSource(base_url, md5, layout, images), seed, images)
    except OSError as error:
        raise UserError(f"{error.strerror or error}: {error.filename or layout.root}") from None


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
