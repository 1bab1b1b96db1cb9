"""Sources of COCO 2017: an existing folder, or the web."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, require_dir
from roiseg.common.outputs import check_replaceable, never, remove, remove_record
from roiseg.data.prepare.download import extract, fetch, remote_size
from roiseg.data.prepare.persons import (
    SPLITS,
    Coco,
    Layout,
    missing_images,
    read_persons,
    require_images,
)


def link_images(source: Path, target: Path, coco: Coco) -> bool:
    """Make `target` a symbolic link to the folder `source`; keep an existing folder if it is complete.

    Returns:
        Whether anything changed.
    """
    if target.resolve() == source.resolve():
        return False
    refuse_link(target)
    if target.is_dir():
        if missing := missing_images(coco, target):
            raise UserError(
                f"{target} is a folder, not a link, and lacks {len(missing)} images (first {missing[0]}): "
                "complete it with images=copy, or remove it"
            )
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".link-", dir=target.parent) as temporary:
        link = Path(temporary) / target.name
        try:
            link.symlink_to(source.resolve(), target_is_directory=True)
        except OSError as error:
            raise UserError(f"cannot link {target} to {source} ({error.strerror}): use images=copy") from None
        os.rename(link, target)
    return True


def copy_images(source: Path, target: Path, coco: Coco) -> int:
    """Copy the images of `coco` that `target` lacks, or has with another size.

    Returns:
        The number of files copied.
    """
    if not target.is_symlink() and target.resolve() == source.resolve():
        return 0
    link, source = target, source.resolve()  # before a link `target`, which may lead to it, is removed
    if link.is_symlink() and link.resolve() == source:
        link.unlink()  # created by images=link from this source
    own_folder(target)
    todo, size = [], 0
    for image in coco["images"]:
        wanted, there = source / image["file_name"], target / image["file_name"]
        length = wanted.stat().st_size
        if not there.is_file() or there.stat().st_size != length:
            check_replaceable(there, never)
            todo.append((wanted, there))
            size += length
    require_space(target, size, f"copying {len(todo)} images to {target}")
    for wanted, there in track(todo, f"copying {target.name}", len(todo)):
        with atomic_path(there, never) as temporary:
            shutil.copyfile(wanted, temporary)
    return len(todo)


def own_folder(folder: Path) -> None:
    """Create `folder` unless it is a link, through which nothing must be written."""
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)


def refuse_link(folder: Path) -> None:
    """Raise a UserError if `folder` is a link, since this command cannot prove that it created it."""
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link to {os.readlink(folder)}, not to images of this source: remove the link, or "
            "give another output_dir"
        )


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise a UserError if the disk of `folder`, which need not exist, has less than `size` bytes free."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(f"{what} needs {size / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free: make room, "
                        "or choose another disk with output_dir")  # fmt: skip


class FolderSource:
    """A COCO 2017 folder with the images in `train2017/` or `images/train2017/`."""

    def __init__(self, root: str | Path, layout: Layout, images: str) -> None:
        self.root = require_dir(root, "source")
        self.layout = layout
        self.mode = images
        self.folders: dict[str, Path] = {}
        missing = []
        for split in SPLITS:
            if not self._annotations(split).is_file():
                missing.append(f"annotations/{self._annotations(split).name}")
            places = (self.root / split, self.root / "images" / split)
            if folder := next((place for place in places if place.is_dir()), None):
                self.folders[split] = folder
            elif images != "skip":
                missing.append(f"{split}/ (or images/{split}/)")
        if missing:
            raise UserError(
                f"source folder {self.root} lacks {', '.join(missing)}: both splits of COCO 2017 are needed"
            )

    def persons(self, split: str) -> Coco:
        """Read a split and check that the folder has its images."""
        persons = read_persons(self._annotations(split))
        if self.mode != "skip":
            require_images(persons, self.folders[split])
        return persons

    def place_images(self, split: str, persons: Coco) -> bool:
        """Link or copy the images; return whether anything changed."""
        place = link_images if self.mode == "link" else copy_images
        return bool(place(self.folders[split], self.layout.images(split), persons))

    def finish(self) -> None:
        """Do nothing: there are no temporary files."""

    def _annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"instances_{split}.json"


Url = Annotated[str, Field(pattern="^https?://")]
Md5 = Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")]


class Checksums(TypedDict):
    """MD5 of the archives."""

    train2017: Md5
    val2017: Md5
    annotations: Md5


class WebSource:
    """COCO's archives, downloaded only if the layout lacks their content, and removed once unpacked."""

    def __init__(self, base_url: str, md5: Checksums, layout: Layout, images: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.md5: dict[str, Any] = {**md5}
        self.layout = layout
        self.mode = images
        self.present = {split: self._read_existing(split) for split in SPLITS}
        needed = [] if all(self.present.values()) else ["annotations"]
        if self.mode != "skip":
            needed += [split for split in SPLITS if self._lacks_images(split)]
        self._require_space(needed)

    def persons(self, split: str) -> Coco:
        """Return the persons of a split from the layout if it is valid, else from COCO's archive."""
        if there := self.present[split]:
            return there
        name = f"instances_{split}.json"
        extract(self._archive("annotations"), {f"annotations/{name}": self.layout.downloads / name}, None)
        return read_persons(self.layout.downloads / name)

    def place_images(self, split: str, persons: Coco) -> bool:
        """Download and unpack missing images with persons; return whether there were any."""
        folder = self.layout.images(split)
        if not missing_images(persons, folder):
            return False
        archive = self._archive(split)
        own_folder(folder)
        names = [image["file_name"] for image in persons["images"]]
        extract(archive, {f"{split}/{name}": folder / name for name in names})
        return True

    def finish(self) -> None:
        """Remove the downloads, now unpacked and checked; the user's own archives stay."""
        folder = self.layout.downloads
        for name in ("annotations", *(SPLITS if self.mode != "skip" else ())):
            remove(folder / f"{name}.zip")
        for split in SPLITS:
            remove(folder / f"instances_{split}.json")
        remove_record(folder)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _archive(self, name: str) -> Path:
        path = self.layout.downloads / f"{name}.zip"
        remedy = (
            f"set base_url to a mirror (where its file differs, md5.{name} to its checksum), or use a COCO "
            "2017 folder that you have with source=DIR"
        )
        fetch(self._url(name), path, self.md5[name], remedy)
        return path

    def _url(self, name: str) -> str:
        place = "annotations/annotations_trainval2017.zip" if name == "annotations" else f"zips/{name}.zip"
        return f"{self.base_url}/{place}"

    def _read_existing(self, split: str) -> Coco | None:
        path = self.layout.annotations(split)
        try:
            return read_persons(path) if path.exists() else None
        except UserError:
            return None

    def _lacks_images(self, split: str) -> bool:
        persons = self.present[split]
        return persons is None or bool(missing_images(persons, self.layout.images(split)))

    def _require_space(self, needed: list[str]) -> None:
        """Check the space for the archives and their content: 4 times (annotations) or 0.6 times (images)."""
        size = 0.0
        for name in needed:
            archive = self.layout.downloads / f"{name}.zip"
            have = next(
                (p.stat().st_size for p in (archive, archive.with_name(f"{name}.zip.part")) if p.is_file()), 0
            )
            whole = remote_size(self._url(name))
            size += max(whole - have, 0) + whole * (4 if name == "annotations" else 0.6)
        require_space(self.layout.root, int(size), "downloading COCO 2017")
