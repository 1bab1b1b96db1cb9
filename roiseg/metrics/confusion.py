"""Confusion of background, target and other persons."""

from __future__ import annotations

from typing import Any

from torch import Tensor
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
