"""Which runs can be compared, their grouping into variants, and the names of these."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from roiseg.common.errors import UserError, require_choice
from roiseg.reporting.runs import Rois, Run

BASE = "base"
# keys that do not change training or metrics, that `comparable` checks, or that are seed and fold
_IGNORED = (
    "seed", "data.seed", "data.folds", "paths", "logger", "ckpt_path", "test", "optimized_metric",
    "debug", "sweep",
    "data.train_annotations", "data.train_images", "data.val_annotations", "data.val_images", "data.source",
    "data.index_dir", "data.num_workers", "data.pin_memory", "data.val_batch_size",
    "data.cache.folder", "data.cache.budget_gb",
    "extractor.source", "extractor.threads", "extractor.providers", "extractor.postprocess",
    "trainer.default_root_dir", "trainer.accelerator", "trainer.log_every_n_steps",
    "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "callbacks.checkpoint.dirpath", "callbacks.checkpoint.keep", "callbacks.history", "callbacks.overlays",
    "callbacks.onnx_export", "callbacks.decision", "callbacks.lr_monitor", "callbacks.progress",
    "callbacks.in_epoch", "callbacks.instances", "callbacks.extremes", "callbacks.pr_curve",
    "callbacks.model_text", "callbacks.hparams", "callbacks.graph",
)  # fmt: skip

Cell = tuple[Any, tuple[Any, ...]]  # (fold, (seed, *values of other differing keys))


@dataclass(frozen=True)
class Variant:
    """A setting, trained on one or more folds with one or more seeds."""

    name: str  # unique name in the report
    # runs by fold and training: the seed and, with `by`, the values of other differing keys
    runs: dict[Cell, Run]
    differing: dict[str, Any]  # the configuration values that distinguish it from other variants, by key


def find_variants(runs: Sequence[Run], by: Sequence[str] = ()) -> tuple[list[Variant], list[str]]:
    """Group runs by their configuration, ignoring seed, fold and paths.

    A variant is named by its label (`variant=...`), else by the command-line overrides that not all variants
    share ("base" without any). If names are not unique, the fewest distinguishing configuration values are
    appended. If some runs are evaluations, or the runs of a variant share no override, values name all.

    Args:
        runs: runs, in the order of their variants.
        by: configuration keys (`model.num_classes`, or `model` for all below it) that define variants;
            empty: every differing key. With `by`, other differing keys are treated like the seed: variants
            are compared on runs with equal values.

    Returns:
        The variants, and the other differing keys.

    Raises:
        UserError: `by` has an unknown key, or a variant has two different runs with one fold and seed.
    """
    differ = _differing(runs)
    by = [key.replace("/", ".") for key in by]
    known = dict.fromkeys(key for run in runs for key in run.config)
    for key in by:
        if not any(_below(each, [key]) for each in known):
            require_choice("by", key, known)
    distinct = [key for key in differ if (_below(key, by) if by else True)]
    others = [key for key in differ if key not in distinct and key != "variant"]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_text([run.config.get(key) for key in distinct]), []).append(run)
    names = _names(list(groups.values()), distinct, by)
    variants = [
        Variant(name, _cells(name, group, others), {key: group[0].config.get(key) for key in distinct})
        for name, group in zip(names, groups.values(), strict=True)
    ]
    return variants, others


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the relevant keys whose values differ between runs; a missing key equals null."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [
        key
        for key in keys
        if not _below(key, _IGNORED) and len({_text(run.config.get(key)) for run in runs}) > 1
    ]


def _below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _cells(name: str, group: Sequence[Run], others: Sequence[str]) -> dict[Cell, Run]:
    """Return the runs by fold and training, without exact repetitions."""
    cells: dict[Cell, Run] = {}
    for run, seed in ((each, seed) for each in group for seed in each.seeds):
        cell = (run.fold, (seed, *(_text(run.config.get(key)) for key in others)))
        same = cells.setdefault(cell, run)
        if not np.array_equal(same.rois.iou, run.rois.iou):
            raise UserError(
                f"{same.folder} and {run.folder} are both `{name}` with seed {seed} and fold "
                f"{run.fold}, but have different results: give only one, or label them (variant=...)"
            )
    return cells


def _names(groups: Sequence[Sequence[Run]], distinct: Sequence[str], by: Sequence[str]) -> list[str]:
    parts = [_parts(group, distinct, by) for group in groups]
    shared = [part for part in parts[0] if all(part in other for other in parts)] if len(groups) > 1 else []
    names = [", ".join(part for part in own if part not in shared) or BASE for own in parts]
    unknown = any(run.is_evaluation for group in groups for run in group) or any(
        name == BASE and all(set(_overrides(run, distinct, by)) - {*shared} for run in group)
        for name, group in zip(names, groups, strict=True)
    )
    if not by and unknown:
        names = [BASE] * len(groups)  # overrides are not known of all, or differ: named by values below
    if not by:
        names = [
            str(group[0].config.get("variant") or name) for group, name in zip(groups, names, strict=True)
        ]
    for name in {name for name in names if names.count(name) > 1}:
        same = [number for number, other in enumerate(names) if other == name]
        configs = [groups[number][0].config for number in same]
        keys = _fewest(configs, [key for key in distinct if key != "variant"] or list(distinct))
        for number, config in zip(same, configs, strict=True):
            values = ", ".join(f"{key}={_short(config.get(key))}" for key in keys)
            names[number] = values if name == BASE else f"{name}, {values}"
    return names


def _parts(group: Sequence[Run], distinct: Sequence[str], by: Sequence[str]) -> list[str]:
    """Return the distinguishing overrides that all runs of a variant share."""
    parts = {}
    for key in by:  # shown even if it was not overridden
        if key in group[0].config:
            parts[f"{key}={_short(group[0].config[key])}"] = True
    given = [dict.fromkeys(_overrides(run, distinct, by)) for run in group]
    return [
        *parts,
        *(part for part in given[0] if all(part in other for other in given) and part not in parts),
    ]


def _overrides(run: Run, distinct: Sequence[str], by: Sequence[str]) -> list[str]:
    """Return the overrides of a run that set a distinguishing key or choose a whole configuration."""
    chosen = []
    for override in run.summary.get("overrides", ()):
        key, equals, value = override.lstrip("+").partition("=")
        name = key.lstrip("~").split("@")[-1]
        dotted = name.replace("/", ".")
        if _below(dotted, _IGNORED) or dotted == "variant":
            continue
        whole = not by and not any(_below(known, [dotted.split(".")[0]]) for known in run.config)
        if whole or any(_below(known, [dotted]) or _below(dotted, [known]) for known in distinct):
            value = re.sub(r"\\([\\()\[\]{}:=,\s])", r"\1", value)  # what a sweep of Hydra escapes
            chosen.append(f"{'~' if key.startswith('~') else ''}{name}{equals}{value}")
    return chosen


def _fewest(configs: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return few keys whose values distinguish all configurations: classes first, then short ones."""
    chosen: list[str] = []

    def order(key: str) -> tuple[bool, int, int]:
        classes = {config.get(key) for config in configs} - {None} if key.endswith("._target_") else ()
        return len(classes) < 2, key.count("."), len(key)

    in_order = sorted(keys, key=order)

    def distinguished(key: str) -> int:
        return len({_text([config.get(k) for k in (*chosen, key)]) for config in configs})

    while len({_text([config.get(k) for k in chosen]) for config in configs}) < len(configs):
        chosen.append(max(in_order, key=distinguished))
    return chosen


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if value.startswith(("roiseg.", "torch.", "lightning.")) else value
    return json.dumps(value, separators=(",", ":"), default=str)


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
_TRAINING = ("data.train_limit", "data.extra_annotations")  # decide how many images there are to train on
_COUNTS = ("train_images", "train_rois", "val_images", "val_rois")
_TOLERANCES = {
    "boxes": 0.05,  # pixels; boxes are mapped back from inputs of different sizes
    "area": 0.5,
    "non_target_share": 0.01,
}


def check_comparable(runs: Sequence[Run]) -> dict[Any, Rois]:
    """Check that runs are comparable and return the test ROIs of each fold.

    Comparable runs have the same annotation files (by name), category, minimum ROI size, metric grid, number
    of folds and tested epoch (`test_best`); within a fold the same numbers of images and ROIs (for training,
    if they have the same `data.train_limit` and `data.extra_annotations`, and neither is an evaluation), and
    the same test ROIs: image, annotation, box (within 0.05 pixels), mask area and non-target share (within
    0.01).

    Raises:
        UserError: two runs are not comparable; the message names both and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        for field in (*_FILES, *_SAME):
            _require_equal(first, run, field, _setting(first, field), _setting(run, field))
    folds: dict[Any, Run] = {}
    # evaluations last: they do not know the numbers of training images that runs are compared by
    for run in sorted(runs, key=lambda run: run.is_evaluation):
        known = folds.setdefault(run.fold, run)
        same = all(_setting(known, key) == _setting(run, key) for key in _TRAINING)
        for field in _COUNTS if same else _COUNTS[2:]:
            pair = [r.summary["data"].get(field) for r in (known, run)]
            if None not in pair:  # an evaluation does not read the training images
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
