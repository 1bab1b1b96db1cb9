"""The real images, annotations and detector of the measurements."""

from __future__ import annotations

import os
from pathlib import Path

from roiseg.common.errors import UserError
from roiseg.common.files import require_dir
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotations import Annotations
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess


def folder() -> Path:
    """Return the folder ROISEG_REALDATA.

    Raises:
        UserError: it is not set or missing.
    """
    path = os.environ.get("ROISEG_REALDATA")
    if not path:
        raise UserError("set ROISEG_REALDATA to the folder of coco128_person/ and yolox_nano.onnx")
    return require_dir(path, "real data")


def persons(split: str = "train") -> Annotations:
    """Return the persons of the real images, "train" (46) or "val" (15)."""
    name = f"instances_{split}2017_person_only_no_crowd.json"
    return load_annotations(folder() / "coco128_person" / "annotations" / name)


def image_dir(split: str = "train") -> Path:
    """Return the image folder of a split."""
    return folder() / "coco128_person" / "images" / f"{split}2017"


def yolox(*layers: str, threads: int = 0) -> OnnxExtractor:
    """Return YOLOX-Nano, 416x416; by default its tensor `931` [1, 128, 52, 52], stride 8."""
    preprocess = Preprocess((416, 416), align="topleft", color="bgr", divisor=1.0)
    path = str(folder() / "yolox_nano.onnx")
    return OnnxExtractor(path, list(layers) or ["931"], preprocess, threads=threads)
