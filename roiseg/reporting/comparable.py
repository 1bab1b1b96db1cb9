"""May these runs stand in one table? Only if data and metric are the same."""

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
_DEFAULTS = {"test_best": True, "data.crowd": "region"}  # of runs that did not have the option yet
_COUNTS = ("train_images", "train_rois", "val_images", "val_rois")
_PIXELS = 0.05  # boxes are taken back to original pixels from inputs of other sizes
_SHARE = 0.01


def check_comparable(runs: Sequence[Run]) -> dict[Any, Rois]:
    """Refuse runs that were not measured alike; returns the test ROIs of each fold.

    Alike are annotation files (by name), category, smallest ROI, metric grid, number of folds, epoch of the
    test (`test_best`); within a fold the numbers of images and ROIs, and every test ROI: image, annotation,
    box (within 0.05 pixels), mask area and non-target share (within 0.01).

    Raises:
        UserError: names two runs and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        for field in (*_FILES, *_SAME):
            _refuse_unequal(first, run, field, _setting(first, field), _setting(run, field))
    folds: dict[Any, Run] = {}
    for run in runs:
        known = folds.setdefault(run.fold, run)
        for field in _COUNTS:
            pair = [r.summary["data"].get(field) for r in (known, run)]
            _refuse_unequal(known, run, f"number of {field.replace('_', ' ')}", *pair)
        _check_rois(known, run)
    _check_disjoint(list(folds.values()))
    return {fold: run.rois for fold, run in folds.items()}


def _setting(run: Run, field: str) -> Any:
    value = run.config.get(field, _DEFAULTS.get(field))
    return PurePath(str(value)).name if field in _FILES else value


def _refuse_unequal(first: Run, second: Run, field: str, a: Any, b: Any) -> None:
    if a != b:
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: {field} is {a} in the first and {b} in "
            "the second; report them apart"
        )


def _check_rois(first: Run, second: Run) -> None:
    a, b = first.rois, second.rois
    only = sorted(set(a.names) ^ set(b.names))
    if only:
        image, annotation = only[0]
        has = first if only[0] in set(a.names) else second
        raise UserError(
            f"{first.folder} and {second.folder} cannot be compared: {len(only)} test ROIs are in one only, "
            f"such as annotation {annotation} of image {image} in {has.folder}; report them apart"
        )
    for field, tolerance in (("boxes", _PIXELS), ("area", 0.5), ("non_target_share", _SHARE)):
        values, others = getattr(a, field), getattr(b, field)
        off = np.flatnonzero((np.abs(values - others) > tolerance).reshape(len(a), -1).any(axis=1))
        if len(off):
            at = off[0]
            what = f"`{field}` of annotation {a.annotations[at]} of image {a.images[at]}"
            _refuse_unequal(first, second, what, values[at].tolist(), others[at].tolist())


def _check_disjoint(runs: Sequence[Run]) -> None:
    """Folds hold out different images."""
    held: dict[str, Run] = {}
    for run in runs:
        for image in sorted(set(run.rois.images.tolist())):
            other = held.setdefault(image, run)
            if other is not run:
                raise UserError(
                    f"{other.folder} and {run.folder} cannot be compared: image {image} is in the test of "
                    f"both, though they hold out folds {other.fold} and {run.fold}; report them apart"
                )
