"""Command: train the embedded extractor (a tiny person detector) on drawn people and write it as ONNX."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig

from roiseg.cli.entry import command
from roiseg.common.console import console, track
from roiseg.common.errors import UserError
from roiseg.data.synthetic import Scene, synthetic_scene
from roiseg.extractor.tiny import IMAGE_SIZE, Pictures, Pretraining, export_onnx, pretrain
from roiseg.geometry.letterbox import Letterbox


@command("make_extractor")
def main(cfg: DictConfig) -> Path:
    """Draw pictures, train, export; returns the ONNX file."""
    for name in ("pictures", "steps", "batch_size", "lr"):
        if cfg[name] <= 0:
            raise UserError(f"make_extractor: {name} must be greater than 0, got {cfg[name]}")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    pictures = draw_pictures(cfg.pictures, cfg.seed)
    how = Pretraining(cfg.steps, cfg.batch_size, cfg.lr, cfg.seed, cfg.device, cfg.bfloat16)
    network = pretrain(pictures, how)
    path = export_onnx(network, cfg.output)
    parameters = sum(p.numel() for p in network.parameters())
    console.print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {parameters} parameters before folding")
    return path


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


if __name__ == "__main__":
    main()
