"""Which runs are trainings of one setting, and what to call it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roiseg.common.errors import UserError, closest_matches
from roiseg.reporting.runs import Run

BASE = "base"
# what does not change what is learned and measured, or is checked by `comparable`, or is seed or fold
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
    "callbacks.onnx_export", "callbacks.lr_monitor", "callbacks.progress",
    "callbacks.instances", "callbacks.extremes", "callbacks.pr_curve", "callbacks.model_text",
    "callbacks.hparams", "callbacks.graph",
)  # fmt: skip

Cell = tuple[Any, tuple[Any, ...]]  # (fold, (seed, *what else differs))


@dataclass(frozen=True)
class Variant:
    """A setting that was trained, perhaps on several folds and with several seeds.

    Attributes:
        name: for people; no other variant of the report has it.
        runs: by fold and by training: the seed, and the values of what differs besides (`by`).
        differing: the values that tell it from the other variants, by configuration key.
    """

    name: str
    runs: dict[Cell, Run]
    differing: dict[str, Any]


def find_variants(runs: Sequence[Run], by: Sequence[str] = ()) -> tuple[list[Variant], list[str]]:
    """Group runs by what differs in their configuration, apart from seed, fold, and where files lie.

    The name of a variant is the label its runs were given (`variant=...`); else the overrides of its command
    line that not all variants have ("base" without any); where that does not tell variants apart, the fewest
    configuration values that do follow.

    Args:
        runs: in the order the variants shall have.
        by: configuration keys (`model.num_classes`, or `model` for all below) that tell variants apart;
            empty: whatever differs. With `by`, what differs elsewhere belongs to the training, as its seed
            does: variants are compared where it is the same.

    Returns:
        The variants, and the keys that differ besides.

    Raises:
        UserError: `by` names no configuration key, or a variant has two unlike runs of one fold and seed.
    """
    differ = _differing(runs)
    by = [key.replace("/", ".") for key in by]
    for key in by:
        _check_key(key, runs)
    apart = [key for key in differ if (_below(key, by) if by else True)]
    besides = [key for key in differ if key not in apart and key != "variant"]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_text([run.config.get(key) for key in apart]), []).append(run)
    names = _names(list(groups.values()), apart, by)
    found = [
        Variant(name, _cells(name, group, besides), {key: group[0].config.get(key) for key in apart})
        for name, group in zip(names, groups.values(), strict=True)
    ]
    return found, besides


def _differing(runs: Sequence[Run]) -> list[str]:
    """Keys that count and whose values are not the same in all runs; an absent key is as good as null."""
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


def _check_key(key: str, runs: Sequence[Run]) -> None:
    keys = dict.fromkeys(known for run in runs for known in run.config)
    if not any(_below(known, [key]) for known in keys):
        close = ", ".join(closest_matches(key, keys))
        raise UserError(
            f"by: no run has the configuration key `{key}`{f' (nearest: {close})' if close else ''}"
        )


def _cells(name: str, group: Sequence[Run], besides: Sequence[str]) -> dict[Cell, Run]:
    """The runs by fold and training; one that repeats another figure by figure is left out."""
    cells: dict[Cell, Run] = {}
    for run in group:
        cell = (run.fold, (run.seed, *(_text(run.config.get(key)) for key in besides)))
        same = cells.setdefault(cell, run)
        if not np.array_equal(same.rois.iou, run.rois.iou):
            raise UserError(
                f"{same.folder} and {run.folder} are both `{name}` with seed {run.seed} and fold "
                f"{run.fold}, yet measured otherwise: give one of them, or a label to each (variant=...)"
            )
    return cells


def _names(groups: Sequence[Sequence[Run]], apart: Sequence[str], by: Sequence[str]) -> list[str]:
    parts = [_parts(group, apart, by) for group in groups]
    shared = [part for part in parts[0] if all(part in other for other in parts)] if len(groups) > 1 else []
    names = [", ".join(part for part in own if part not in shared) or BASE for own in parts]
    if not by:
        names = [
            str(group[0].config.get("variant") or name) for group, name in zip(groups, names, strict=True)
        ]
    for name in {name for name in names if names.count(name) > 1}:
        same = [number for number, other in enumerate(names) if other == name]
        configs = [groups[number][0].config for number in same]
        keys = _fewest(configs, [key for key in apart if key != "variant"] or list(apart))
        for number, config in zip(same, configs, strict=True):
            told = ", ".join(f"{key}={_shown(config.get(key))}" for key in keys)
            names[number] = told if name == BASE else f"{name}, {told}"
    return names


def _parts(group: Sequence[Run], apart: Sequence[str], by: Sequence[str]) -> list[str]:
    """What the command lines of a variant's runs have in common, of what tells variants apart."""
    parts = {}
    for key in by:  # a single value is shown even where it was not given
        if key in group[0].config:
            parts[f"{key}={_shown(group[0].config[key])}"] = True
    given = [dict.fromkeys(_overrides(run, apart, by)) for run in group]
    return [
        *parts,
        *(part for part in given[0] if all(part in other for other in given) and part not in parts),
    ]


def _overrides(run: Run, apart: Sequence[str], by: Sequence[str]) -> list[str]:
    """A run's overrides that touch a key which tells variants apart, or that choose a whole setting."""
    told = []
    for override in run.summary.get("overrides", ()):
        key, equals, value = override.lstrip("+").partition("=")
        name = key.lstrip("~").split("@")[-1]
        dotted = name.replace("/", ".")
        if _below(dotted, _IGNORED) or dotted == "variant":
            continue
        whole = not by and not any(_below(known, [dotted.split(".")[0]]) for known in run.config)
        if whole or any(_below(known, [dotted]) or _below(dotted, [known]) for known in apart):
            told.append(f"{'~' if key.startswith('~') else ''}{name}{equals}{value}")
    return told


def _fewest(configs: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Few keys, short ones first, whose values tell all configurations apart."""
    chosen: list[str] = []
    by_length = sorted(keys, key=lambda key: (key.count("."), len(key)))

    def told_apart(key: str) -> int:
        return len({_text([config.get(k) for k in (*chosen, key)]) for config in configs})

    while len({_text([config.get(k) for k in chosen]) for config in configs}) < len(configs):
        chosen.append(max(by_length, key=told_apart))
    return chosen


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if value.startswith(("roiseg.", "torch.", "lightning.")) else value
    return json.dumps(value, separators=(",", ":"), default=str)
