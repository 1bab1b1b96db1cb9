"""Where COCO 2017 comes from: a folder that is there, or the web."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from roiseg.common.errors import UserError
from roiseg.common.files import existing_dir, read_json
from roiseg.common.outputs import remove, remove_record
from roiseg.data.coco.check import check_persons, require_images
from roiseg.data.coco.download import fetch, remote_size
from roiseg.data.coco.images import copy_images, link_images, own_folder, require_space
from roiseg.data.coco.layout import SPLITS, Coco, Layout, missing_images
from roiseg.data.coco.subsets import read_persons
from roiseg.data.coco.unzip import extract


class FolderSource:
    """An ordinary COCO 2017 folder, with the images in `train2017/` or `images/train2017/`."""

    def __init__(self, root: str | Path, layout: Layout, images: str) -> None:
        self.root = existing_dir(root, "source")
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
        """Read a split and make sure that the folder has its images."""
        persons = read_persons(self._annotations(split))
        if self.mode != "skip":
            require_images(persons, self.folders[split])
        return persons

    def place_images(self, split: str, persons: Coco) -> bool:
        """Link or copy the images; returns whether anything was changed."""
        place = link_images if self.mode == "link" else copy_images
        return bool(place(self.folders[split], self.layout.images(split), persons))

    def finish(self) -> None:
        """Nothing is left over."""

    def _annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"instances_{split}.json"


class WebSource:
    """COCO's archives, downloaded as far as the layout lacks them and removed when they are unpacked."""

    def __init__(self, base_url: str, md5: Mapping[str, str], layout: Layout, images: str) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"base_url must begin with http:// or https://, got {base_url!r}")
        self.base_url = base_url.rstrip("/")
        for name in ("annotations", *SPLITS):
            if not re.fullmatch("[0-9a-fA-F]{32}", str(md5.get(name))):
                raise UserError(f"md5.{name} must be 32 hexadecimal digits, got {md5.get(name)}")
        self.md5 = {name: str(checksum) for name, checksum in md5.items()}
        self.layout = layout
        self.mode = images
        self.present = {split: self._persons_there(split) for split in SPLITS}
        needed = [] if all(self.present.values()) else ["annotations"]
        if self.mode != "skip":
            needed += [split for split in SPLITS if self._lacks_images(split)]
        self._require_space(needed)

    def persons(self, split: str) -> Coco:
        """Return the persons of a split: those in the layout if they are in order, else of COCO's archive."""
        if there := self.present[split]:
            return there
        name = f"instances_{split}.json"
        extract(self._archive("annotations"), {f"annotations/{name}": self.layout.downloads / name}, None)
        return read_persons(self.layout.downloads / name)

    def place_images(self, split: str, persons: Coco) -> bool:
        """Download and unpack the images with persons that are missing; returns whether there were any."""
        folder = self.layout.images(split)
        if not missing_images(persons, folder):
            return False
        archive = self._archive(split)
        own_folder(folder)
        names = [image["file_name"] for image in persons["images"]]
        extract(archive, {f"{split}/{name}": folder / name for name in names})
        return True

    def finish(self) -> None:
        """Remove what was downloaded, now that all is unpacked and checked; archives of the user's stay."""
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
        fetch(self._url(name), path, self.md5[name])
        return path

    def _url(self, name: str) -> str:
        place = "annotations/annotations_trainval2017.zip" if name == "annotations" else f"zips/{name}.zip"
        return f"{self.base_url}/{place}"

    def _persons_there(self, split: str) -> Coco | None:
        path = self.layout.annotations(split)
        try:
            persons: Coco = read_json(path, "annotations")
            check_persons(persons, str(path))
        except UserError:
            return None
        return persons

    def _lacks_images(self, split: str) -> bool:
        persons = self.present[split]
        return persons is None or bool(missing_images(persons, self.layout.images(split)))

    def _require_space(self, needed: list[str]) -> None:
        """The archives, and what is unpacked: of the annotations 4 times (json), of the images 0.6 times."""
        size = 0.0
        for name in needed:
            archive = self.layout.downloads / f"{name}.zip"
            have = next(
                (p.stat().st_size for p in (archive, archive.with_name(f"{name}.zip.part")) if p.is_file()), 0
            )
            whole = remote_size(self._url(name))
            size += max(whole - have, 0) + whole * (4 if name == "annotations" else 0.6)
        require_space(self.layout.root, int(size), "downloading COCO 2017")
