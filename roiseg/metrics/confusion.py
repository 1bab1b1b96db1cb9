"""Counts of pixels: the confusion of classes, and the target's precision and recall at many thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from roiseg.common.classes import CLASS_NAMES, IGNORE, NON_TARGET, TARGET


class Confusion(MulticlassConfusionMatrix):
    """Confusion matrix of cells of a grid over each ROI, by true and predicted class; 255 is ignored.

    Args:
        predicted_classes: 3, or 2 for predictions that only separate the target from the rest.
    """

    def __init__(self, predicted_classes: int) -> None:
        super().__init__(len(CLASS_NAMES), ignore_index=IGNORE, validate_args=False)
        self.predicted_classes = predicted_classes

    @property
    def counts(self) -> Tensor:
        """Return the cells by true and predicted class, int64 [3, predicted_classes]."""
        return self.confmat[:, : self.predicted_classes]

    def rates(self) -> dict[str, float | None]:
        """Return how the target and the other persons were predicted.

        Returns:
            `target_recall`: share of target cells predicted as target. `non_target_as_target`: share of other
            persons' cells predicted as target. `predicted_target_on_non_target`,
            `predicted_target_on_background`: share of the cells predicted as target that belong to another
            person or to the background. None where there are no cells to divide by.
        """
        truth, as_target = self.counts.sum(dim=1), self.counts[:, TARGET]
        return {
            "target_recall": _share(as_target[TARGET], truth[TARGET]),
            "non_target_as_target": _share(as_target[NON_TARGET], truth[NON_TARGET]),
            "predicted_target_on_non_target": _share(as_target[NON_TARGET], as_target.sum()),
            "predicted_target_on_background": _share(as_target[0], as_target.sum()),
        }

    def summary(self) -> dict[str, Any]:
        """Return the counts by true, then predicted class, for JSON."""
        names = CLASS_NAMES if self.predicted_classes == len(CLASS_NAMES) else ("rest", "target")
        return {
            true: dict(zip(names, row, strict=True))
            for true, row in zip(CLASS_NAMES, self.counts.tolist(), strict=True)
        }


def _share(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole else None


class PrecisionRecallCurve(Metric):
    """Pixel counts of the target class at evenly spaced thresholds, for a precision-recall curve.

    The counts equal those of torchmetrics' `BinaryPrecisionRecallCurve`, which compares every pixel with
    every threshold: for 50,000 pixels and 127 thresholds that takes 25 times as long and 200 MB. Here each
    pixel is counted once, in a histogram.

    Args:
        thresholds: number of thresholds from 0 to 1, both included.
    """

    full_state_update = False
    target: Tensor
    other: Tensor

    def __init__(self, thresholds: int = 127) -> None:
        super().__init__()
        self.thresholds = thresholds
        for name in ("target", "other"):
            self.add_state(name, torch.zeros(thresholds, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Count pixels.

        Args:
            probabilities: probability of the target, 0 to 1, any shape.
            truth: class numbers of the same shape; 255 is ignored.
        """
        counted = truth != IGNORE
        is_target = truth[counted] == TARGET
        limits = torch.linspace(0, 1, self.thresholds, device=probabilities.device)
        bins = torch.bucketize(probabilities[counted].float(), limits, right=True).clamp(min=1) - 1
        self.target += torch.bincount(bins[is_target], minlength=self.thresholds)
        self.other += torch.bincount(bins[~is_target], minlength=self.thresholds)

    def compute(self) -> dict[str, Tensor]:
        """Return counts and rates at each threshold, ascending, [thresholds].

        A pixel whose probability reaches the threshold is predicted as target.

        Returns:
            `true_positive_counts`, `false_positive_counts`, `true_negative_counts` and
            `false_negative_counts` in pixels; `precision`, 1 where nothing is predicted; `recall`, 0 without
            any target.
        """
        true_positives, false_positives = (
            bins.flip(0).cumsum(0).flip(0) for bins in (self.target, self.other)
        )
        predicted, targets = true_positives + false_positives, true_positives[:1]
        return {
            "true_positive_counts": true_positives,
            "false_positive_counts": false_positives,
            "true_negative_counts": false_positives[:1] - false_positives,
            "false_negative_counts": targets - true_positives,
            "precision": torch.where(predicted > 0, true_positives / predicted.clamp(min=1), 1.0),
            "recall": true_positives / targets.clamp(min=1),
        }
