"""Evaluations as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from roiseg.common.classes import CLASS_NAMES
from roiseg.evaluation.detections import DetectionEvaluation
from roiseg.evaluation.evaluator import Evaluation, ModelDifference, comparable_figures
from roiseg.metrics.confusion import Confusion
from roiseg.metrics.registry import ALL_INSTANCES, LABELS, labels

_FIGURES = {
    name: label for name, label in labels("test", tuple(LABELS)).items() if not name.endswith("_dice")
}
_GRID = {"grid_iou": "target IoU on the metric grid, mean over ROIs"}
_SCORES = {"mask_score_calibration_error": "calibration error of the mask scores"}
_RATES = {
    "target_recall": "target cells predicted as target",
    "non_target_as_target": "other persons' cells predicted as target",
    "predicted_target_on_non_target": "predicted target on another person",
    "predicted_target_on_background": "predicted target on background",
}


def header_table(summary: Mapping[str, Any]) -> Table:
    """Return the models and the data of an evaluation."""
    table = Table(title="evaluation", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, model in summary["models"].items():
        epoch = f", epoch {model['epoch']}" if "epoch" in model else ""
        table.add_row(name, f"{Path(model['file']).name}{epoch}, arithmetic: {model['arithmetic']}")
    data = summary["data"]
    if data["fold"]:
        table.add_row("fold", data["fold"])
    if summary["boxes"] == "annotations":
        table.add_row("ROIs", f"{data['rois']:,} in {data['images']:,} images")
    if data["tta"] is not None:
        options = ", ".join(f"{key} {value}" for key, value in data["tta"].items())
        table.add_row("test-time augmentation", options)
    return table


def figures_table(evaluations: Mapping[str, Evaluation], difference: ModelDifference | None) -> Table:
    """Return every figure, one column per evaluation, and their difference if there are two.

    Pixel figures are left out for a model with fewer classes than the first.
    """
    first = next(iter(evaluations.values()))
    columns = {name: comparable_figures(evaluation, first) for name, evaluation in evaluations.items()}
    table = _table("annotated boxes as ROIs", "figure", *columns, *(["difference"] if difference else []))
    precision = {name: f"mask {name.replace('_', ' ')}" for name in first.precision if "R" not in name}
    for key, label in (_FIGURES | _GRID | precision | _SCORES | _RATES).items():
        values = [figures.get(key) for figures in columns.values()]
        if all(value is None for value in values):
            continue
        cells = [_number(value) for value in values]
        if difference is not None:
            cells.append(f"{difference.figures[key]:+.4f}" if key in difference.figures else "")
        table.add_row(label, *cells)
    return table


def groups_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Return the instance metrics by size and crowding; only the first metric of further evaluations."""
    others = list(evaluations)[1:]
    first, *metrics = ALL_INSTANCES
    heads = [metric.label for metric in (first, *metrics)] + [f"{name}: {first.label}" for name in others]
    table = _table("by size and crowding", "instances", "group", "number", *heads)
    table.columns[1].justify = "left"
    criterion = None
    for group, *more in zip(*(evaluation.groups for evaluation in evaluations.values()), strict=True):
        if criterion not in (None, group.criterion):
            table.add_section()
        values = [*group.means.values(), *(other.means[first.name] for other in more)]
        heading = "" if group.criterion == criterion else group.criterion
        table.add_row(heading, group.name, f"{group.instances:,}", *map(_number, values))
        criterion = group.criterion
    return table


def confusion_table(confusion: Confusion) -> Table:
    """Return the predicted classes of the cells of each class, in percent."""
    names = [name.replace("_", "-") for name in CLASS_NAMES]
    predicted = names if confusion.predicted_classes == len(names) else ["rest", "target"]
    table = _table("cells of each class, by predicted class", "annotated", *predicted, "cells")
    for name, row in zip(names, confusion.counts.tolist(), strict=True):
        total = sum(row)
        table.add_row(name, *(f"{n / total:.1%}" if total else "" for n in row), f"{total:,}")
    return table


def detections_table(evaluations: Mapping[str, DetectionEvaluation]) -> Table:
    """Return the COCO figures of masks, ranked in two ways, of their boundaries and of boxes."""
    first = next(iter(evaluations.values()))
    kinds = ("masks", "masks by box score", "boundaries", "boxes")
    heads = [f"{name}: {kind}" for name in evaluations for kind in kinds]
    title = f"the detector's boxes: {first.persons:,} persons in {first.images:,} images"
    table = _table(title, "figure", *heads)
    for key in first.masks:
        columns = [c for e in evaluations.values() for c in (e.masks, e.masks_by_box, e.boundary, e.boxes)]
        values = [column[key] for column in columns]
        table.add_row(key.replace("_", " "), *map(_number, values))
    return table


def difference_line(difference: ModelDifference) -> str:
    """Return a sentence about the largest difference of a single instance."""
    if difference.largest is None:
        return "no instances to compare"
    return (
        f"largest difference of an instance: IoU {difference.largest:+.4f}, "
        f"annotation {difference.annotation_id}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
