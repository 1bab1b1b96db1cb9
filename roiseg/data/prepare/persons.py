"""Person-only annotation files: their layout, how they are derived from COCO's."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from roiseg.common.console import status
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, home_path, read_json

SPLITS = ("train2017", "val2017")
PERSON = 1  # COCO's category id

Coco = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The folder to create."""

    root: Path  # folder that holds `images/` and `annotations/`
    sizes: tuple[int, ...]  # numbers of images in the subsets, largest first

    def images(self, split: str) -> Path:
        """Return the image folder of a split."""
        return self.root / "images" / split

    def annotations(self, split: str, size: int | None = None) -> Path:
        """Return the annotation file of a split: the full one, or the subset of `size` images."""
        ending = "" if size is None else f"_{size}"
        return self.root / "annotations" / f"instances_{split}_person_only_no_crowd{ending}.json"

    @property
    def downloads(self) -> Path:
        """Return the folder of the archives while they are needed."""
        return self.root / "downloads"


def layout_of(root: str | Path, sizes: Sequence[int]) -> Layout:
    """Return the layout for a folder and subset sizes in any order."""
    if len(set(sizes)) < len(sizes):
        raise UserError(f"sizes must be different numbers of images, such as [500,100]; got {sizes}")
    return Layout(home_path(root), tuple(sorted(sizes, reverse=True)))


def missing_images(coco: Coco, folder: Path) -> list[str]:
    """Return the names of the images of `coco` that are not files in `folder`, in their order."""
    if not folder.is_dir():
        return [image["file_name"] for image in coco["images"]]
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries if entry.is_file()}
    return [image["file_name"] for image in coco["images"] if image["file_name"] not in present]


def read_persons(path: Path) -> Coco:
    """Read a COCO instances file and keep the persons that are not a crowd; training checks their records.

    Raises:
        UserError: the file is missing, broken, not a COCO instances file, or has no person.
    """
    with status(f"reading {path.name}"):
        return person_only(read_json(path, "annotations"), str(path))


def person_only(coco: Any, where: str) -> Coco:
    """Keep the category person, its annotations that are not a crowd, and their images.

    Args:
        coco: content of a COCO instances file; its records are kept unchanged.
        where: name of the file, for error messages.
    """
    images, annotations, categories = (
        _records(coco, key, where) for key in ("images", "annotations", "categories")
    )
    person = [category for category in categories if category.get("id") == PERSON]
    if [category.get("name") for category in person] != ["person"]:
        raise UserError(f"{where}: category {PERSON} is not `person`; give COCO's instances_*.json")
    try:
        persons = [a for a in annotations if a["category_id"] == PERSON and not a.get("iscrowd", 0)]
        shown = {a["image_id"] for a in persons}
        listed = {image["id"] for image in images}
        if astray := next((a for a in persons if a["image_id"] not in listed), None):
            raise UserError(
                f"{where}: annotation {astray.get('id')} is of image {astray['image_id']}, not in `images`"
            )
        with_persons = [image for image in images if image["id"] in shown]
        names = [image["file_name"] for image in with_persons]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: an image or annotation has no valid field {error}; get the file again"
        ) from None
    if not persons:
        raise UserError(f"{where}: no image shows a person")
    if odd := [name for name in names if not _is_plain(name)]:
        raise UserError(f"{where}: an image has file_name {odd[0]!r}; a plain file name is needed")
    heading = {key: coco[key] for key in ("info", "licenses") if key in coco}
    return {**heading, "images": with_persons, "annotations": persons, "categories": person}


def _records(coco: Any, key: str, where: str) -> list[dict[str, Any]]:
    records = coco.get(key) if isinstance(coco, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{where} has no list `{key}` of objects; give COCO's instances_*.json")
    return records


def _is_plain(name: Any) -> bool:
    """Tell whether a file of this name cannot lie in another folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\"} & set(name)


def subset(full: Coco, size: int, seed: int) -> Coco:
    """Sample `size` images (or all) with all their annotations, in the order of `full`.

    With the same seed, a smaller subset is part of every larger one: both are the head of one shuffled list.
    """
    order = sorted(image["id"] for image in full["images"])
    random.Random(seed).shuffle(order)
    chosen = set(order[:size])
    return {
        **full,
        "images": [image for image in full["images"] if image["id"] in chosen],
        "annotations": [a for a in full["annotations"] if a["image_id"] in chosen],
    }


def write_if_different(path: Path, coco: Coco) -> bool:
    """Write a COCO file as compact json unless `path` already has this content.

    Returns:
        Whether the file was written.
    """
    content = json.dumps(coco, separators=(",", ":")).encode()
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return True


@dataclass(frozen=True)
class FileReport:
    """Counts of an annotation file."""

    path: Path
    images: int
    persons: int
    size: int

    @classmethod
    def of(cls, path: Path, coco: Coco) -> FileReport:
        """Count the content of a written file."""
        return cls(path, len(coco["images"]), len(coco["annotations"]), path.stat().st_size)


@dataclass(frozen=True)
class Prepared:
    """The result of a run."""

    reports: list[FileReport]  # one per annotation file
    made: list[Path]  # the files and folders written; empty if everything existed


def require_images(coco: Coco, folder: Path) -> None:
    """Raise a UserError that counts the image files missing in `folder` and names the first."""
    if missing := missing_images(coco, folder):
        raise UserError(
            f"{len(missing)} of {len(coco['images'])} images are not in {folder}, the first {missing[0]}"
        )


def table(reports: list[FileReport]) -> Table:
    """Return the reports as a table for the terminal."""
    title = f"annotation files in {reports[0].path.parent}"
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("file", no_wrap=True)
    for heading in ("images", "persons", "persons\n/image", "size"):
        shown.add_column(heading, justify="right")
    for report in reports:
        mean = f"{report.persons / report.images:.2f}"
        size = decimal(report.size, precision=0)
        shown.add_row(report.path.name, str(report.images), str(report.persons), mean, size)
    return shown
