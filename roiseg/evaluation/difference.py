"""Difference between an exported file and its checkpoint, figure by figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roiseg.evaluation.evaluator import Evaluation
from roiseg.metrics.registry import INSTANCE_METRICS

INSTANCE_FIGURES = tuple(f"test/{metric.name}" for metric in INSTANCE_METRICS)


@dataclass(frozen=True)
class ModelDifference:
    """Second evaluation minus first, on the same ROIs.

    Attributes:
        figures: difference of each figure that both have; pixel figures only if both distinguish the same
            number of classes.
        annotation_id: the annotation whose IoU differs most.
        largest: its signed difference of IoU; None without instances.
    """

    figures: dict[str, float]
    annotation_id: int | None
    largest: float | None

    def summary(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        return {
            "figures": self.figures,
            "largest_instance_iou_difference": self.largest,
            "annotation_id": self.annotation_id,
        }


def difference(first: Evaluation, second: Evaluation) -> ModelDifference:
    """Compare two evaluations of the same ROIs in the same order.

    Raises:
        ValueError: they are of different instances.
    """
    pairs = list(zip(first.records, second.records, strict=True))
    if any(a.annotation_id != b.annotation_id for a, b in pairs):
        raise ValueError("the evaluations are of different instances")
    changes = [(b.iou - a.iou, a.annotation_id) for a, b in pairs]
    largest, annotation_id = max(changes, key=lambda change: abs(change[0]), default=(None, None))
    before, after = comparable_figures(first, second), comparable_figures(second, first)
    figures = {
        name: other - value
        for name, value in before.items()
        if value is not None and (other := after.get(name)) is not None
    }
    return ModelDifference(figures, annotation_id, largest)


def comparable_figures(evaluation: Evaluation, other: Evaluation) -> dict[str, float | None]:
    """Return all figures of an evaluation; pixel figures only if both have as many classes."""
    same_classes = evaluation.classes.counts.shape == other.classes.counts.shape
    test = {
        name: value for name, value in evaluation.test.items() if same_classes or name in INSTANCE_FIGURES
    }
    return test | evaluation.precision | evaluation.target.rates()
