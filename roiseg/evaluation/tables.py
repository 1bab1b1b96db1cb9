"""Evaluations as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from roiseg.common.classes import CLASS_NAMES
from roiseg.evaluation.detections import DetectionEvaluation
from roiseg.evaluation.difference import OF_INSTANCES, ModelDifference
from roiseg.evaluation.evaluator import Evaluation
from roiseg.metrics.confusion import Confusion
from roiseg.metrics.registry import LABELS, labels

_FIGURES = {
    name: label for name, label in labels("test", tuple(LABELS)).items() if not name.endswith("_dice")
}
_SHARES = {
    "target_found": "target found",
    "others_taken": "other persons taken for the target",
    "target_is_others": "of what was taken: another person",
    "target_is_background": "of what was taken: nobody",
}


def header_table(summary: Mapping[str, Any]) -> Table:
    """What is measured, and on what."""
    table = Table(title="evaluation", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, model in summary["models"].items():
        epoch = f", epoch {model['epoch']}" if "epoch" in model else ""
        table.add_row(name, f"{model['file']}{epoch}, arithmetic: {model['arithmetic']}")
    data = summary["data"]
    fold = f" ({data['fold']})" if data["fold"] else ""
    table.add_row("annotations", "\n".join(data["annotations"]) + fold)
    if summary["boxes"] == "annotations":
        table.add_row("ROIs", f"{data['rois']:,} in {data['images']:,} images")
    if data["tta"] is not None:
        options = ", ".join(f"{key} {value}" for key, value in data["tta"].items())
        table.add_row("test-time augmentation", options)
    return table


def figures_table(evaluations: Mapping[str, Evaluation], off: ModelDifference | None) -> Table:
    """Every figure, a column an evaluation, and their difference if there are two.

    Figures of the classes are left out where a model tells fewer classes apart than the first.
    """
    first = next(iter(evaluations.values()))
    columns = {name: _all_figures(evaluation, first) for name, evaluation in evaluations.items()}
    table = _table("annotated boxes as ROIs", "figure", *columns, *(["difference"] if off else []))
    precision = {name: f"mask {name.replace('_', ' ')}" for name in first.precision if "R" not in name}
    for key, label in (_FIGURES | precision | _SHARES).items():
        values = [figures.get(key) for figures in columns.values()]
        if all(value is None for value in values):
            continue
        change = [] if off is None else [f"{off.figures[key]:+.4f}" if key in off.figures else ""]
        table.add_row(label, *map(_number, values), *change)
    return table


def bands_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Instances by size and company; of a second evaluation the IoU only."""
    others = list(evaluations)[1:]
    heads = ["IoU", "0.75+", "boundary", *(f"{name}: IoU" for name in others)]
    table = _table("by size and company", "instances", "which", "number", *heads)
    table.columns[1].justify = "left"
    group = None
    for band, *more in zip(*(evaluation.bands for evaluation in evaluations.values()), strict=True):
        if group not in (None, band.group):
            table.add_section()
        figures = (band.instance_iou, band.instance_iou75, band.boundary_iou)
        cells = map(_number, (*figures, *(other.instance_iou for other in more)))
        table.add_row(band.group if band.group != group else "", band.name, f"{band.instances:,}", *cells)
        group = band.group
    return table


def confusion_table(confusion: Confusion) -> Table:
    """What became of the cells of each class, in percent of them."""
    names = [name.replace("_", "-") for name in CLASS_NAMES]
    predicted = names if confusion.counts.shape[1] == len(names) else ["rest", "target"]
    table = _table("cells of each class, by what was predicted", "annotated", *predicted, "cells")
    for name, row in zip(names, confusion.counts.tolist(), strict=True):
        total = sum(row)
        table.add_row(name, *(f"{n / total:.1%}" if total else "" for n in row), f"{total:,}")
    return table


def detections_table(evaluations: Mapping[str, DetectionEvaluation]) -> Table:
    """COCO's figures of masks and boxes."""
    first = next(iter(evaluations.values()))
    title = f"the detector's boxes: {first.persons:,} persons in {first.images:,} images"
    table = _table(
        title, "figure", *(f"{name}: {what}" for name in evaluations for what in ("masks", "boxes"))
    )
    for key in first.masks:
        values = [v for e in evaluations.values() for v in (e.masks[key], e.boxes[key])]
        table.add_row(key.replace("_", " "), *map(_number, values))
    return table


def difference_line(off: ModelDifference) -> str:
    """The largest difference of a single instance, in words."""
    if off.largest is None:
        return "no instance to compare"
    return f"largest difference of an instance: IoU {off.largest:+.4f}, annotation {off.instance}"


def _all_figures(evaluation: Evaluation, first: Evaluation) -> dict[str, Any]:
    alike = evaluation.classes.counts.shape == first.classes.counts.shape
    test = {name: value for name, value in evaluation.test.items() if alike or name in OF_INSTANCES}
    return test | evaluation.precision | evaluation.target.shares()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
