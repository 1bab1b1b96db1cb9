"""`instances.csv` of a run: one row a test ROI."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.common.files import existing_file
from roiseg.data.analysis import CROWDED

_BOX = ("x1", "y1", "x2", "y2")
_SHARES = ("non_target_share", "iou", "boundary_iou")
_COLUMNS = ("image_id", "annotation_id", *_BOX, "area", *_SHARES)


@dataclass(frozen=True)
class Rois:
    """The test ROIs of a run, sorted by image and annotation.

    Attributes:
        images: [n] image ids.
        annotations: [n] annotation ids.
        boxes: [n, 4] x1, y1, x2, y2 in original pixels.
        area: [n] pixels of the annotated mask at original size.
        non_target_share: [n] share of the ROI that other annotated persons cover.
        iou: [n] IoU of mask and annotation at original resolution.
        boundary_iou: [n] boundary IoU (Cheng et al., 2021) at original resolution.
    """

    images: NDArray[np.str_]
    annotations: NDArray[np.str_]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    non_target_share: NDArray[np.float64]
    iou: NDArray[np.float64]
    boundary_iou: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def crowded(self) -> NDArray[np.bool_]:
        """[n] does more than a tenth of the ROI belong to other persons?"""
        return self.non_target_share > CROWDED

    @property
    def names(self) -> list[tuple[str, str]]:
        """(image id, annotation id) of each ROI."""
        return list(zip(self.images.tolist(), self.annotations.tolist(), strict=True))


def read_rois(path: Path) -> Rois:
    """Read the file a run leaves after its test.

    Raises:
        UserError: a column is absent, a value is no number or out of range, a ROI is there twice, or none is.
    """
    with existing_file(path, "instances").open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        if absent := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"{path} has no column `{absent[0]}`: it is not an instances.csv of roiseg.train")
        rows = [
            (row["image_id"], row["annotation_id"], _numbers(row, path, reader.line_num)) for row in reader
        ]
    if not rows:
        raise UserError(f"{path} holds no ROI: remove this run")
    rows.sort(key=lambda row: row[:2])
    images, annotations, numbers = zip(*rows, strict=True)
    twice = [a for a, b in pairwise(rows) if a[:2] == b[:2]]
    if twice:
        raise UserError(f"{path}: annotation {twice[0][1]} of image {twice[0][0]} is there twice")
    table = np.array(numbers)
    return Rois(np.array(images), np.array(annotations), table[:, :4], *table[:, 4:].T)


def _numbers(row: dict[str, str], path: Path, line: int) -> list[float]:
    values = []
    for name in (*_BOX, "area", *_SHARES):
        try:
            value = float(row[name])
        except (TypeError, ValueError):  # a short row holds None
            value = float("nan")
        if not np.isfinite(value) or (name in _SHARES and not 0 <= value <= 1):
            raise UserError(
                f"{path} line {line}: `{name}` is {row[name]!r}, it must be a number"
                f"{' from 0 to 1' if name in _SHARES else ''}: remove this run"
            )
        values.append(value)
    return values
