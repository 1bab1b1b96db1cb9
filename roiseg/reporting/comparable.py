"""Checks that runs used the same data and metric, so that one table can compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from roiseg.common.errors import UserError
from roiseg.reporting.runs import Rois, Run

_FILES = ("data.train_annotations", "data.val_annotations")
_SAME = (
    "data.category_id",
    "data.crowd",
    "data.min_roi_size",
    "data.metric_size",
    "data.folds.number",
    "test_best",
)
_DEFAULTS = {"test_best": True, "data.crowd": "region"}  # for runs from before the option
_COUNTS = ("train_images", "train_rois", "val_images", "val_rois")
_TOLERANCES = {
    "boxes": 0.05,  # pixels; boxes are mapped back from inputs of different sizes
    "area": 0.5,
    "non_target_share": 0.01,
}


def check_comparable(runs: Sequence[Run]) -> dict[Any, Rois]:
    """Check that runs are comparable and return the test ROIs of each fold.

    Comparable runs have the same annotation files (by name), category, minimum ROI size, metric grid, number
    of folds and tested epoch (`test_best`); within a fold the same numbers of images and ROIs, and the same
    test ROIs: image, annotation, box (within 0.05 pixels), mask area and non-target share (within 0.01).

    Raises:
        UserError: two runs are not comparable; the message names both and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        for field in (*_FILES, *_SAME):
            _require_equal(first, run, field, _setting(first, field), _setting(run, field))
    folds: dict[Any, Run] = {}
    for run in runs:
        known = folds.setdefault(run.fold, run)
        for field in _COUNTS:
            pair = [r.summary["data"].get(field) for r in (known, run)]
            _require_equal(known, run, f"number of {field.replace('_', ' ')}", *pair)
        _check_rois(known, run)
    _check_disjoint(list(folds.values()))
    return {fold: run.rois for fold, run in folds.items()}


def _setting(run: Run, field: str) -> Any:
    value = run.config.get(field, _DEFAULTS.get(field))
    return PurePath(str(value)).name if field in _FILES else value


def _require_equal(first: Run, second: Run, field: str, a: Any, b: Any) -> None:
    if a != b:
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: {field} is {a} in the first and {b} in "
            "the second; report them separately"
        )


def _check_rois(first: Run, second: Run) -> None:
    a, b = first.rois, second.rois
    only = sorted(set(a.names) ^ set(b.names))
    if only:
        image, annotation = only[0]
        has = first if only[0] in set(a.names) else second
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: {len(only)} test ROIs are in one only, "
            f"such as annotation {annotation} of image {image} in {has.folder}; report them separately"
        )
    for field, tolerance in _TOLERANCES.items():
        values, others = getattr(a, field), getattr(b, field)
        off = np.flatnonzero((np.abs(values - others) > tolerance).reshape(len(a), -1).any(axis=1))
        if len(off):
            at = off[0]
            name = f"`{field}` of annotation {a.annotations[at]} of image {a.images[at]}"
            _require_equal(first, second, name, values[at].tolist(), others[at].tolist())


def _check_disjoint(runs: Sequence[Run]) -> None:
    """Check that the folds hold out different images."""
    tested_by: dict[str, Run] = {}
    for run in runs:
        for image in sorted(set(run.rois.images.tolist())):
            other = tested_by.setdefault(image, run)
            if other is not run:
                raise UserError(
                    f"{other.folder} and {run.folder} cannot be compared: both test on "
                    f"image {image}, but hold out folds {other.fold} and {run.fold}; report them separately"
                )
