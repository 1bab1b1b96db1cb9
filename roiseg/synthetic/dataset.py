"""The embedded data set on disk: synthetic images in COCO format, created once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import xxhash
from pycocotools import mask as coco_mask
from pydantic import Field, PositiveInt

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, read_json, write_json
from roiseg.common.locks import check_lock, locked
from roiseg.common.outputs import check_folder, check_output, check_replaceable, inside, never, remove
from roiseg.common.types import Seed, Share
from roiseg.geometry.rle import bounds, encode
from roiseg.synthetic.scene import PEOPLE_CYCLE, Scene, render_scene
from roiseg.visualize.canvas import encode_image

RENDERER_VERSION = 3  # raise it when a seed gives other images
MARKER = "synthetic.json"  # marks a folder that this class may write to
_MARK = {"made_by": "python -m roiseg.synthesize"}  # its content
# each split has its own random streams; "extractor" is for pre-training the tiny detector
SPLITS = {"train": 1, "val": 2, "extractor": 3}
FIRST_ID = {"train": 1, "val": 1_000_001}
JPEG_QUALITY = 95


def synthetic_scene(seed: int, split: str, index: int, crowding: float = 0.0) -> Scene:
    """Render image `index` of a split, which depends only on the arguments; see `render_scene`."""
    rng = np.random.default_rng([seed, SPLITS[split], index])
    people = PEOPLE_CYCLE[index % len(PEOPLE_CYCLE)]
    return render_scene(rng, people + round(crowding), crowding)


@dataclass(frozen=True)
class SyntheticPeople:
    """A COCO data set of synthetic people."""

    root: str | Path  # folder of the data set; missing, empty, or created by this class
    train_images: Annotated[PositiveInt, Field(le=999_999)] = 240
    val_images: Annotated[PositiveInt, Field(le=999_999)] = 40
    seed: Seed = 0  # 0 or greater; another seed gives other images
    # 0 to 1: how closely people stand; at 1 there are also 2 to 7 per image instead of 1 to 6
    crowding: Share = 0.0
    made = "training makes it"

    def images_dir(self, split: str) -> Path:
        """Return the image folder of "train" or "val"."""
        return Path(self.root) / "images" / f"{split}2017"

    def annotation_file(self, split: str) -> Path:
        """Return the annotation file of "train" or "val"."""
        return Path(self.root) / "annotations" / f"instances_{split}2017_person_only_no_crowd.json"

    def makes(self, path: str | Path) -> bool:
        """Tell whether `path` is in the folder of the data set."""
        return Path(self.root).absolute() in Path(path).absolute().parents

    def ensure(self) -> Path:
        """Create what is missing and return the root.

        The annotations of a split are written after its images, so a split with annotations of the same
        parameters is complete, and an interrupted one is created again. Only one process creates it; others
        wait.

        Raises:
            UserError: see `check`.
        """
        root = Path(self.root)
        if not all(self._complete(split) for split in FIRST_ID):
            self.check()
            with locked(root / ".lock", wait=True):
                if not self._is_marked():
                    write_json(root / MARKER, _MARK, never)
                for split in FIRST_ID:
                    if not self._complete(split):  # another process may have created it
                        self._make(split)
        return root

    def _count(self, split: str) -> int:
        return self.train_images if split == "train" else self.val_images

    def _info(self, split: str) -> dict[str, Any]:
        return {
            "description": "roiseg synthetic people",
            "renderer_version": RENDERER_VERSION,
            "seed": self.seed,
            "split": split,
            "images": self._count(split),
            **({"crowding": self.crowding} if self.crowding else {}),
        }

    def _complete(self, split: str) -> bool:
        path = self.annotation_file(split)
        if not path.is_file():
            return False
        content = read_json(path, "synthetic annotations")
        if not isinstance(content, dict) or content.get("info") != self._info(split):
            return False
        folder = self.images_dir(split)
        return all((folder / image["file_name"]).is_file() for image in content["images"])

    def check(self) -> None:
        """Check that nothing is in the way of the files that are missing.

        Raises:
            UserError: a file is there that this class did not write, or that was changed since.
        """
        root = check_folder(self.root, "synthetic data: root")
        for folder in (root / "images", root / "annotations"):
            used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
            if used and not self._is_marked():  # checked last: another process may be creating it
                raise UserError(
                    f"synthetic data: {folder} exists and was not created by roiseg: give another root"
                )
        check_lock(root / ".lock")
        if not self._is_marked():
            check_output(root / MARKER, lambda _: self._is_marked())  # another process may be creating it
        for split in FIRST_ID:
            if self._complete(split):
                continue
            self._image_names(split)
            for index in range(self._count(split)):
                check_replaceable(self._image_path(split, index), _is_drawn)

    def _image_names(self, split: str) -> set[str]:
        """Return the image names in annotations that this class wrote with any parameters."""
        path = self.annotation_file(split)
        if not path.exists():
            return set()
        if not _is_annotated(path):
            raise UserError(
                f"synthetic data: roiseg did not write {path} as it is: give another root, or remove it"
            )
        return {image["file_name"] for image in read_json(path, "synthetic annotations")["images"]}

    def _image_path(self, split: str, index: int) -> Path:
        return self.images_dir(split) / f"{FIRST_ID[split] + index:012d}.jpg"

    def _is_marked(self) -> bool:
        path = Path(self.root) / MARKER
        return path.is_file() and read_json(path, "mark of synthetic data") == _MARK

    def _make(self, split: str) -> None:
        before = self._image_names(split)
        remove(self.annotation_file(split), _is_annotated)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in track(range(self._count(split)), f"drawing {split} images"):
            scene = synthetic_scene(self.seed, split, index, self.crowding)
            image_id = FIRST_ID[split] + index
            path = self._image_path(split, index)
            _write_jpeg(path, scene.image)
            height, width = scene.instances.shape
            images.append({"id": image_id, "file_name": path.name, "width": width, "height": height})
            annotations += _annotate(scene, image_id, len(annotations) + FIRST_ID[split])
        for name in before - {image["file_name"] for image in images}:
            remove(inside(self.images_dir(split), name), _is_drawn)
        content = {
            "info": self._info(split),
            "images": images,
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
            "annotations": annotations,
        }
        with atomic_path(self.annotation_file(split), _is_annotated) as temporary:
            temporary.write_text(_compact({**content, _DIGEST: _digest(content)}), encoding="utf-8")


def _annotate(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    annotations = []
    for person in range(scene.people):
        mask = encode(scene.instances == person + 1)
        x1, y1, x2, y2 = bounds(mask)
        annotations.append({
            "id": first_id + person,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(coco_mask.area(mask)),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
        })  # fmt: skip
    return annotations


_DIGEST = "digest"  # key of the annotations' digest


def _compact(content: dict[str, Any]) -> str:
    """Return JSON that is not indented."""
    return json.dumps(content, separators=(",", ":"))


def _digest(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(_compact(content).encode())


def _is_annotated(path: Path) -> bool:
    """Tell whether `path` holds annotations as this class wrote them."""
    try:
        content = read_json(path, "synthetic annotations")
    except UserError:
        return False
    return isinstance(content, dict) and content.pop(_DIGEST, None) == _digest(content)


def _signed(jpeg: bytes) -> bytes:
    """Return a JPEG with a comment that has the digest of the rest."""
    comment = b"roiseg synthetic people " + xxhash.xxh3_128_hexdigest(jpeg).encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _is_drawn(path: Path) -> bool:
    """Tell whether `path` holds an image as this class wrote it."""
    content = path.read_bytes()
    length = int.from_bytes(content[4:6], "big")  # of the comment
    return _signed(content[:2] + content[4 + length :]) == content


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    encoded = encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    with atomic_path(path, _is_drawn) as temporary:
        temporary.write_bytes(_signed(encoded))
