"""Finished runs as training leaves them, written without training."""

from __future__ import annotations

import csv
import json

import numpy as np
import yaml

COLUMNS = [
    "image_id", "file_name", "annotation_id", "x1", "y1", "x2", "y2", "area", "non_target_share", "iou",
    "boundary_iou",
]  # fmt: skip
BASIC = {
    "seed": 0,
    "variant": None,
    "test_best": False,
    "ckpt_path": None,
    "data": {
        "train_annotations": "/data/train.json", "train_images": "/data/train", "val_images": "/data/val",
        "val_annotations": "/data/val.json", "category_id": 1, "min_roi_size": 16, "metric_size": [56, 56],
        "folds": None, "batch_size": 4, "num_workers": 2, "seed": 0, "augment": {"flip": 0.5},
    },
    "extractor": {"layers": ["931"], "threads": 0},
    "model": {"_target_": "roiseg.decoders.roialign.RoiAlignDecoder", "num_classes": 3, "film": None},
    "loss": {"terms": {"ce": {"weight": 1.0}}, "class_weights": None},
    "trainer": {"max_epochs": 10},
    "callbacks": {},
}  # fmt: skip


def rois(fold=0, images=6, each=3):
    """Rows of `instances.csv` without what was measured: `each` ROIs an image, every third crowded."""
    rows = []
    for number in range(images * each):
        x = 10.0 * (number % each)
        rows.append({
            "image_id": 100 * fold + number // each, "file_name": f"{number // each}.jpg", "annotation_id": number,
            "x1": x, "y1": 5.25, "x2": x + 40, "y2": 60, "area": (500, 2000, 20000)[number % 3],
            "non_target_share": (0.0, 0.05, 0.3)[number % 3],
        })  # fmt: skip
    return rows


def write_run(folder, iou, seed=0, fold=None, overrides=(), rows=None, boundary=None, summary=(), **settings):
    """Write the three files of a run into `folder`, which is made; returns it.

    `iou` has one value a row of `rows`, of `instances.csv` (default: `rois(fold)`), `boundary` too (default: the
    IoU). `fold` is held out, of five. `summary` has keys that replace those of `summary.json`, `settings` values of
    the configuration by dotted key with __ for the dot: `model__num_classes=2`.
    """
    folder.mkdir(parents=True)
    config = json.loads(json.dumps(BASIC))
    config["seed"] = config["data"]["seed"] = seed
    checkpoints = f"/here/ckpt/{folder.name}"
    config["paths"] = {"root_dir": "/here", "output_dir": str(folder), "checkpoint_dir": checkpoints}
    config["callbacks"] = {"checkpoint": {"dirpath": checkpoints, "monitor": "val/miou"}}
    config["logger"] = {"csv": {"save_dir": str(folder)}}
    if fold is not None:
        config["data"]["folds"] = {"number": 5, "held_out": fold}
    for key, value in settings.items():
        node = config
        *path, last = key.split("__")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = rois(fold or 0) if rows is None else rows
    content = {
        "test": {"test/miou": 0.5, "test/target_iou": 0.6, "test/instance_iou": float(np.sum(iou) / max(len(iou), 1))},
        "data": {"train_images": 46, "train_rois": 161, "val_images": 15, "val_rois": len(rows)},
        "parameters": {"total": 1000, "trainable": 1000, "frozen": 0},
        "seconds": 12.5, "seed": seed, "choices": {}, "overrides": [f"seed={seed}", *overrides],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(content | dict(summary)))
    boundary = iou if boundary is None else boundary
    with (folder / "instances.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row, value, edge in zip(rows, iou, boundary, strict=True):
            writer.writerow(row | {"iou": repr(float(value)), "boundary_iou": repr(float(edge))})
    return folder


def noisy(mean, seed=0, count=18, spread=0.05):
    """IoU values around a mean."""
    return np.clip(np.random.default_rng(seed).normal(mean, spread, count), 0, 1)


def cross_validated(folder, variants, folds=(0, 1, 2, 3, 4), seeds=(1, 2)):
    """A sweep: `variants` maps an override (or "") to (mean IoU, settings)."""
    number = 0
    for override, (mean, settings) in variants.items():
        for fold in folds:
            for seed in seeds:
                scatter = np.random.default_rng(1000 + number).normal(mean - 0.6, 0.01, 18)
                given = [f"data.folds.held_out={fold}", *([override] if override else [])]
                iou = noisy(0.6, fold) + scatter
                write_run(folder / f"{number}_run", iou, seed, fold, given, **settings)
                number += 1
    return folder
