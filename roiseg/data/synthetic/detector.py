"""The embedded extractor as a file: copied from the repository, or trained on drawn people."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.common.locks import locked
from roiseg.common.outputs import check_output
from roiseg.data.synthetic.dataset import synthetic_scene
from roiseg.data.synthetic.scene import Scene
from roiseg.extractor.tiny import IMAGE_SIZE, Pictures, Pretraining, export_onnx, pretrain
from roiseg.geometry.letterbox import Letterbox

COMMITTED = Path(__file__).resolve().parents[3] / "ext_extractor" / "tiny_person_256.onnx"


@dataclass(frozen=True)
class TinyDetector:
    """A tiny person detector, pre-trained on pictures no data set holds.

    Args:
        path: the ONNX file.
        pictures: synthetic pictures to learn from (about 330 kB of memory each).
        steps: optimiser steps.
        batch_size: pictures a step.
        lr: peak of the one-cycle learning rate.
        seed: decides pictures, first weights and order.
        device: "cpu" or "cuda".
        bfloat16: convolutions in half precision.
        threads: processor threads; None takes all cores.

    Raises:
        UserError: a number that must be positive is not.
    """

    path: str | Path
    pictures: int = 3500
    steps: int = 5000
    batch_size: int = 16
    lr: float = 3e-3
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("pictures", "steps", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise UserError(f"make_extractor: {name} must be greater than 0, got {getattr(self, name)}")

    def makes(self, path: str | Path) -> bool:
        """Is `path` the file this stands for?"""
        return Path(path).absolute() == Path(self.path).absolute()

    def ensure(self) -> Path:
        """Copy the file of the repository, or train it where that is gone; at once if it is there.

        Of several processes one trains it, the others wait.
        """
        path = Path(self.path)
        if path.is_file():
            return path
        if not COMMITTED.is_file():
            with locked(path.with_name(f".{path.name}.lock"), wait=True):
                return path if path.is_file() else self.make()
        with atomic_path(path) as temporary:
            shutil.copyfile(COMMITTED, temporary)
        return path

    def make(self) -> Path:
        """Draw pictures, train, export; returns the file."""
        check_output(self.path)
        if self.threads:
            torch.set_num_threads(self.threads)
        how = Pretraining(self.steps, self.batch_size, self.lr, self.seed, self.device, self.bfloat16)
        return export_onnx(pretrain(draw_pictures(self.pictures, self.seed), how), self.path)


def draw_pictures(count: int, seed: int) -> Pictures:
    """Draw letterboxed pictures from the random streams of the split "extractor".

    No picture of a synthetic data set is among them, whatever its seed: the name of the split is a
    part of the seed of each picture.
    """
    letterboxed = [
        letterbox_scene(synthetic_scene(seed, "extractor", index))
        for index in track(range(count), "drawing pictures")
    ]
    images, instances, parts = (torch.from_numpy(np.stack(kind)) for kind in zip(*letterboxed, strict=True))
    return Pictures(images.permute(0, 3, 1, 2), instances, parts)


def letterbox_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring a scene to the network's input: image [256, 256, 3], instances and parts [256, 256], uint8."""
    box = Letterbox((IMAGE_SIZE, IMAGE_SIZE))
    height, width = scene.instances.shape
    transform = box.fit(height, width)
    size = (round(transform.scale_x * width), round(transform.scale_y * height))
    top, left = round(transform.shift_y), round(transform.shift_x)
    labels = []
    for label in (scene.instances, scene.parts):
        canvas = np.zeros(box.size, np.uint8)
        small = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
        canvas[top : top + size[1], left : left + size[0]] = small
        labels.append(canvas)
    return box.apply(scene.image, transform), labels[0], labels[1]
