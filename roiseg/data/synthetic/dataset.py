"""Synthetic pictures on disk as a COCO data set, made once and found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, read_json, write_json
from roiseg.common.locks import locked
from roiseg.common.outputs import check_folder, inside, never, own, remove
from roiseg.data.synthetic.outline import bounding_box, segmentation
from roiseg.data.synthetic.scene import PEOPLE_CYCLE, Scene, render_scene

RENDERER_VERSION = 3  # raise it when the same seed gives other pictures
MARKER = "synthetic.json"  # says that the folder is ours to write in
_MARK = {"made_by": "python -m roiseg.synthesize"}  # its content
# each split draws from random streams of its own; "extractor" is for pre-training the tiny detector
SPLITS = {"train": 1, "val": 2, "extractor": 3}
FIRST_ID = {"train": 1, "val": 1_000_001}
JPEG_QUALITY = 95


def synthetic_scene(seed: int, split: str, index: int) -> Scene:
    """Render picture `index` of a split; it depends on nothing but the three arguments."""
    rng = np.random.default_rng([seed, SPLITS[split], index])
    return render_scene(rng, PEOPLE_CYCLE[index % len(PEOPLE_CYCLE)])


@dataclass(frozen=True)
class SyntheticPeople:
    """A COCO data set of drawn people.

    Args:
        root: folder of the data set; absent, empty, or made by this class before.
        train_images: number of pictures in the split train2017.
        val_images: number of pictures in the split val2017.
        seed: 0 or greater; another seed gives other pictures.
    """

    root: str | Path
    train_images: int = 240
    val_images: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_images", "val_images"):
            count = getattr(self, name)
            if not 1 <= count <= 999_999:
                raise UserError(f"synthetic data: {name} must be between 1 and 999999, got {count}")
        if self.seed < 0:
            raise UserError(f"synthetic data: seed must be 0 or greater, got {self.seed}")

    def images_dir(self, split: str) -> Path:
        """Folder of the pictures of "train" or "val"."""
        return Path(self.root) / "images" / f"{split}2017"

    def annotation_file(self, split: str) -> Path:
        """Annotations of "train" or "val"."""
        return Path(self.root) / "annotations" / f"instances_{split}2017_person_only_no_crowd.json"

    def makes(self, path: str | Path) -> bool:
        """Does `path` lie in the data set's folder?"""
        return Path(self.root).absolute() in Path(path).absolute().parents

    def ensure(self) -> Path:
        """Make what is missing and return the root; at once if the data set is whole.

        The annotations of a split are written after its pictures, so a split that has annotations
        with the same parameters is complete. An interrupted run is simply made again. Of several
        processes one makes it, the others wait.

        Raises:
            UserError: the folder holds pictures or annotations that this class did not make.
        """
        root = Path(self.root)
        if not all(self._complete(split) for split in FIRST_ID):
            self._claim()
            with locked(root / ".lock", wait=True):
                for split in FIRST_ID:
                    if not self._complete(split):  # asked late: another process may have made it by now
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

    def _claim(self) -> None:
        """Mark the root as ours, unless it holds what somebody else put there."""
        root = check_folder(self.root, "synthetic data: root")
        for folder in (root / "images", root / "annotations"):
            used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
            if used and not self._is_marked():  # asked last: another process may make it just now
                raise UserError(
                    f"synthetic data: {folder} exists and was not made by roiseg: give another root"
                )
        own(root)
        if not self._is_marked():
            write_json(root / MARKER, _MARK, never)
        for split in FIRST_ID:
            self._pictures(split)

    def _pictures(self, split: str) -> set[str]:
        """Names of the pictures that annotations of this class tell of, of whatever parameters.

        Raises:
            UserError: the annotations are somebody else's.
        """
        path = self.annotation_file(split)
        if not path.exists():
            return set()
        content = read_json(path, "synthetic annotations")
        info = content.get("info") if isinstance(content, dict) else None
        if not isinstance(info, dict) or info.get("description") != self._info(split)["description"]:
            raise UserError(f"synthetic data: roiseg did not make {path}: give another root, or remove it")
        return {image["file_name"] for image in content["images"]}

    def _is_marked(self) -> bool:
        path = Path(self.root) / MARKER
        return path.is_file() and read_json(path, "mark of synthetic data") == _MARK

    def _make(self, split: str) -> None:
        before = self._pictures(split)
        remove(self.annotation_file(split))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in track(range(self._count(split)), f"drawing {split} pictures"):
            scene = synthetic_scene(self.seed, split, index)
            image_id = FIRST_ID[split] + index
            name = f"{image_id:012d}.jpg"
            _write_jpeg(self.images_dir(split) / name, scene.image)
            height, width = scene.instances.shape
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            annotations += _annotate(scene, image_id, len(annotations) + FIRST_ID[split])
        for name in before - {image["file_name"] for image in images}:
            remove(inside(self.images_dir(split), name))
        content = {
            "info": self._info(split),
            "images": images,
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
            "annotations": annotations,
        }
        with atomic_path(self.annotation_file(split)) as temporary:  # not indented: outlines are long
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _annotate(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    annotations = []
    for person in range(scene.people):
        mask = scene.instances == person + 1
        annotations.append(
            {
                "id": first_id + person,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": bounding_box(mask),
                "segmentation": segmentation(mask),
            }
        )
    return annotations


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), parameters)
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {image.shape}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
