"""Where the prepared files lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError

SPLITS = ("train2017", "val2017")
PERSON = 1  # COCO's category id

Coco = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The folder that is made.

    Attributes:
        root: folder that holds `images/` and `annotations/`.
        sizes: numbers of images in the subsets, largest first.
    """

    root: Path
    sizes: tuple[int, ...]

    def images(self, split: str) -> Path:
        """Folder of the images of a split."""
        return self.root / "images" / split

    def annotations(self, split: str, size: int | None = None) -> Path:
        """Annotation file of a split: the full one, or the subset of `size` images."""
        ending = "" if size is None else f"_{size}"
        return self.root / "annotations" / f"instances_{split}_person_only_no_crowd{ending}.json"

    @property
    def downloads(self) -> Path:
        """Folder of the archives while they are needed."""
        return self.root / "downloads"


def layout_of(root: str | Path, sizes: Any) -> Layout:
    """Return the layout for a folder and subset sizes from the configuration, in any order."""
    whole = isinstance(sizes, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in sizes)
    if not whole or any(s < 1 for s in sizes) or len(set(sizes)) < len(sizes):
        raise UserError(
            f"sizes must be a list of different whole numbers above 0, such as [500,100]; got {sizes}"
        )
    if not root:
        raise UserError("output_dir is not set: give the folder to make, such as data")
    return Layout(Path(root).expanduser(), tuple(sorted(sizes, reverse=True)))


def missing_images(coco: Coco, folder: Path) -> list[str]:
    """Names of the images of `coco` that are not files in `folder`, in the order of the annotation file."""
    if not folder.is_dir():
        return [image["file_name"] for image in coco["images"]]
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries if entry.is_file()}
    return [image["file_name"] for image in coco["images"] if image["file_name"] not in present]
