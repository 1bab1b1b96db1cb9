"""Means of each variant, and paired differences from a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.console import track
from roiseg.common.errors import require_choice
from roiseg.metrics.instance import COCO_AREAS
from roiseg.metrics.registry import ALL_INSTANCES
from roiseg.reporting.bootstrap import Block, Interval, mean_interval
from roiseg.reporting.runs import Rois, Run
from roiseg.reporting.variants import Cell, Variant

METRICS: dict[str, Callable[[Rois], NDArray[np.float64]]] = {
    metric.name: metric.value for metric in ALL_INSTANCES
}

Values = dict[Any, NDArray[np.float64]]  # by fold: [trainings, ROIs]
Selection = Callable[[Rois], NDArray[np.bool_]]


@dataclass(frozen=True)
class PairedDifference:
    """Variant minus baseline, paired by ROI, fold and seed."""

    pairs: int  # number of runs that both have with the same fold and seed
    overall: Interval | None  # difference on all ROIs; None without pairs
    crowded: Interval | None  # difference on crowded ROIs; None if there are none


@dataclass(frozen=True)
class Row:
    """Results of one variant: means over the ROIs of all its folds of the mean over its seeds."""

    variant: Variant
    folds: list[Any]
    seeds: list[Any]
    overall: Interval  # the chosen metric on all ROIs
    crowded: Interval | None
    means: dict[str, float]  # every metric on all ROIs
    # number of ROIs and the chosen metric (None without ROIs), by COCO's size class
    sizes: dict[str, tuple[int, float | None]]
    # standard deviation (n - 1) over seeds of the mean over ROIs; None with fewer than two seeds that have
    # all folds
    sd_seeds: float | None
    # standard deviation (n - 1) over folds of the mean over a fold's ROIs; None with one fold
    sd_folds: float | None
    # mean over runs of other figures of `summary["test"]`; None if no run has the figure, such as
    # `test/non_target_iou` with two classes
    tested: dict[str, float | None]
    parameters: tuple[int, int]  # minimum and maximum number of trainable parameters of its runs
    seconds: float
    difference: PairedDifference | None  # difference from the baseline; None for the baseline itself


def compare(
    variants: Sequence[Variant],
    folds: Mapping[Any, Rois],
    baseline: str | None = None,
    metric: str = "instance_iou",
    tested: Sequence[str] = (),
    resamples: int = 10_000,
) -> list[Row]:
    """Average each variant and compare it with the baseline.

    Args:
        folds: the test ROIs of each fold.
        baseline: name of the variant to compare with; None: the first.
        tested: further figures of `summary["test"]` to average.
        resamples: number of bootstrap resamples (`mean_interval`).

    Raises:
        UserError: unknown baseline, metric or test figure.
    """
    require_choice("metric", metric, METRICS)
    names = [variant.name for variant in variants]
    if baseline is not None:
        require_choice("baseline", baseline, names)
    known = {name for variant in variants for run in variant.runs.values() for name in run.summary["test"]}
    for name in tested:
        require_choice("test", name, sorted(known))
    base = variants[names.index(baseline)] if baseline is not None else variants[0]
    return [
        _row(variant, base, folds, metric, tested, resamples)
        for variant in track(variants, "comparing variants")
    ]


def _row(
    variant: Variant,
    base: Variant,
    folds: Mapping[Any, Rois],
    metric: str,
    tested: Sequence[str],
    resamples: int,
) -> Row:
    runs = list(variant.runs.values())
    own = _values(variant.runs, metric)
    sizes = {name: _pooled(own, folds, _of_size(*limits)) for name, limits in COCO_AREAS.items()}
    parameters = [run.summary["parameters"]["trainable"] for run in runs]
    overall = _interval(own, folds, _all, resamples)
    assert overall is not None
    return Row(
        variant=variant,
        folds=list(own),
        seeds=sorted({seed for run in runs for seed in run.seeds}),
        overall=overall,
        crowded=_interval(own, folds, _crowded, resamples),
        means={name: float(_pooled(_values(variant.runs, name), folds, _all).mean()) for name in METRICS},
        sizes={name: (len(of), float(of.mean()) if len(of) else None) for name, of in sizes.items()},
        sd_seeds=_sd_seeds(variant, metric),
        sd_folds=_sd([float(values.mean()) for values in own.values()]),
        tested={name: _tested(runs, name) for name in tested},
        parameters=(min(parameters), max(parameters)),
        seconds=float(np.mean([run.summary["seconds"] for run in runs])),
        difference=None if variant is base else _difference(variant, base, folds, metric, resamples),
    )


def _tested(runs: Sequence[Run], name: str) -> float | None:
    values = [run.summary["test"][name] for run in runs if name in run.summary["test"]]
    return float(np.mean(values)) if values else None


def _difference(
    variant: Variant, base: Variant, folds: Mapping[Any, Rois], metric: str, resamples: int
) -> PairedDifference:
    shared = [cell for cell in variant.runs if cell in base.runs]
    own, others = (
        _values({cell: runs[cell] for cell in shared}, metric) for runs in (variant.runs, base.runs)
    )
    paired = {fold: own[fold] - others[fold] for fold in own}
    return PairedDifference(
        len(shared), _interval(paired, folds, _all, resamples), _interval(paired, folds, _crowded, resamples)
    )


def _values(runs: Mapping[Cell, Any], metric: str) -> Values:
    """Return the metric by fold, [trainings, ROIs], trainings in the order of seeds."""
    cells = sorted(runs, key=lambda cell: (cell[0] is not None, cell[0], str(cell[1])))
    folds = dict.fromkeys(fold for fold, _ in cells)
    return {
        fold: np.stack([METRICS[metric](runs[cell].rois) * 1.0 for cell in cells if cell[0] == fold])
        for fold in folds
    }


def _all(rois: Rois) -> NDArray[np.bool_]:
    return np.ones(len(rois), bool)


def _crowded(rois: Rois) -> NDArray[np.bool_]:
    return rois.crowded


def _of_size(low: float, high: float) -> Selection:
    return lambda rois: (rois.area >= low) & (rois.area < high)


def _interval(
    values: Values, folds: Mapping[Any, Rois], chosen: Selection, resamples: int
) -> Interval | None:
    masks = {fold: chosen(folds[fold]) for fold in values}
    blocks = [Block(values[fold][:, mask], folds[fold].images[mask]) for fold, mask in masks.items()]
    return mean_interval(blocks, resamples)


def _pooled(values: Values, folds: Mapping[Any, Rois], chosen: Selection) -> NDArray[np.float64]:
    """Return the mean over trainings of each selected ROI of all folds."""
    return np.concatenate([rows.mean(axis=0)[chosen(folds[fold])] for fold, rows in values.items()])


def _sd_seeds(variant: Variant, metric: str) -> float | None:
    """Return the standard deviation over the trainings that have all of the variant's folds."""
    folds = {fold for fold, _ in variant.runs}
    trainings = dict.fromkeys(training for _, training in variant.runs)
    complete = [t for t in trainings if all((fold, t) in variant.runs for fold in folds)]
    if any(len(run.seeds) > 1 for run in variant.runs.values()):  # one ensemble, not several trainings
        return None
    pooled = [
        np.concatenate([METRICS[metric](variant.runs[fold, training].rois) * 1.0 for fold in folds]).mean()
        for training in complete
    ]
    return _sd(pooled)


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
