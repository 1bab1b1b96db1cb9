"""An exported file against its checkpoint: how far every figure is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roiseg.evaluation.evaluator import Evaluation
from roiseg.metrics.registry import INSTANCE_METRICS

OF_INSTANCES = tuple(f"test/{metric.name}" for metric in INSTANCE_METRICS)


@dataclass(frozen=True)
class ModelDifference:
    """Second evaluation minus first, on the same ROIs.

    Attributes:
        figures: by name, what both have and measure alike: class figures only if both tell as many classes
            apart.
        instance: the annotation whose IoU differs most.
        largest: by how much, with its sign; None without any instance.
    """

    figures: dict[str, float]
    instance: int | None
    largest: float | None

    def summary(self) -> dict[str, Any]:
        """For json."""
        return {
            "figures": self.figures,
            "largest_instance_iou_difference": self.largest,
            "annotation_id": self.instance,
        }


def difference(first: Evaluation, second: Evaluation) -> ModelDifference:
    """Compare two evaluations of the same ROIs in the same order.

    Raises:
        ValueError: they are of different instances.
    """
    pairs = list(zip(first.records, second.records, strict=True))
    if any(a.annotation_id != b.annotation_id for a, b in pairs):
        raise ValueError("the evaluations are of different instances")
    off = [(b.iou - a.iou, a.annotation_id) for a, b in pairs]
    largest, instance = max(off, key=lambda pair: abs(pair[0]), default=(None, None))
    alike = first.classes.counts.shape == second.classes.counts.shape
    figures = {
        name: second.test[name] - value
        for name, value in first.test.items()
        if name in second.test and (alike or name in OF_INSTANCES)
    }
    for ours, theirs in (
        (first.precision, second.precision),
        (first.target.shares(), second.target.shares()),
    ):
        figures |= {
            name: theirs[name] - value  # type: ignore[operator]
            for name, value in ours.items()
            if value is not None and theirs.get(name) is not None
        }
    return ModelDifference(figures, instance, largest)
