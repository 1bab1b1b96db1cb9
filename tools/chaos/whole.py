"""Check that every file of a run is complete."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import onnx
import xxhash
import yaml
from PIL import Image

from roiseg.data import annotation_index
from roiseg.extractor.cache import disk
from roiseg.extractor.cache.folders import MAGIC
from roiseg.inference.checkpoint import read_checkpoint

LOGS = {"tensorboard", "csv"}  # appended to while a run goes on: their last line may be cut off


def half_written(folder: Path) -> list[Path]:
    """Return the incomplete files below `folder`, except temporary files and logs."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_whole(path)]


def is_whole(path: Path) -> bool:
    """Tell whether everything in a file can be read."""
    if path.name.startswith(".") or path.suffix == ".tmp" or LOGS & set(path.parts):
        return True
    try:
        read = _cached if "feature_cache" in path.parts and not path.suffix else READERS[path.suffix]
        return read(path) is not False
    except Exception:
        return False


def _picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def _video(path: Path) -> bool:
    frames = 0
    video = cv2.VideoCapture(str(path))
    while video.read()[0]:
        frames += 1
    return frames == round(video.get(cv2.CAP_PROP_FRAME_COUNT)) > 0


def _text(path: Path) -> bool:
    return path.read_text().endswith("\n")


def _cached(path: Path) -> bool:
    content = path.read_bytes()
    magic, _, checksum = disk._HEADER.unpack(content[: disk._HEADER.size])
    about = json.loads((path.parent.parent / "about.json").read_text())
    whole = len(content) == about["file_bytes"] and magic == MAGIC
    return whole and xxhash.xxh3_64_intdigest(content[disk._HEADER.size :]) == checksum


def _table(path: Path) -> bool:
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    return path.read_text().endswith("\n") and len({len(row) for row in rows}) == 1


def _index(path: Path) -> None:
    with path.open("rb") as stream:
        annotation_index._header(stream)
        annotation_index._check(stream)


READERS = {
    ".pth": read_checkpoint,
    ".png": _picture,
    ".jpg": _picture,
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path), full_check=True),
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".csv": _table,
    ".index": _index,
    ".mp4": _video,
    ".md": _text,
    ".txt": _text,
}
