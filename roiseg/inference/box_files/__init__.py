"""Open a file of boxes in any format."""

from __future__ import annotations

from pathlib import Path

from roiseg.common.errors import UserError
from roiseg.common.files import home_path, require_file
from roiseg.inference.box_files.base import BoxFile
from roiseg.inference.box_files.coco import CocoBoxes
from roiseg.inference.box_files.text_files import CsvBoxes, YoloBoxes


def open_boxes(path: str | Path, category_id: int = 1, class_id: int = 0, crowd: str = "region") -> BoxFile:
    """Open boxes by the suffix: `.json` COCO, `.csv` a table, `.txt` or a folder YOLO.

    Args:
        path: file or folder.
        category_id: the category to read from COCO.
        class_id: the class to read from YOLO.
        crowd: how boxes marked `iscrowd` in COCO are read, see `CocoBoxes`.

    Raises:
        UserError: missing, of an unknown format, or invalid.
    """
    path = home_path(path)
    if path.is_dir():
        return YoloBoxes(path, class_id)
    path = require_file(path, "boxes", "boxes= takes detector, coco, or a file")
    openers = {
        ".json": lambda: CocoBoxes(path, category_id, crowd),
        ".csv": lambda: CsvBoxes(path),
        ".txt": lambda: YoloBoxes(path, class_id),
    }
    if path.suffix.lower() not in openers:
        raise UserError(f"boxes file {path}: unknown format, the suffix must be one of {', '.join(openers)}")
    return openers[path.suffix.lower()]()
