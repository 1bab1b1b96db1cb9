"""Which pixels were taken for which: background, the target, other persons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roiseg.common.classes import CLASS_NAMES, IGNORE, NON_TARGET, TARGET


class Confusion:
    """Counts cells of a grid over each ROI by their true and their predicted class.

    Args:
        predicted_classes: 3, or 2 for predictions that tell the target from the rest only.

    Attributes:
        counts: int64 [3, predicted_classes], true class by predicted class.
    """

    def __init__(self, predicted_classes: int) -> None:
        self.counts = torch.zeros((len(CLASS_NAMES), predicted_classes), dtype=torch.int64)

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count class maps [R, h, w]; `truth` always has three classes, and 255 in it is ignored."""
        known = truth != IGNORE
        columns = self.counts.shape[1]
        pairs = truth[known].long() * columns + predicted[known].long()
        self.counts += torch.bincount(pairs, minlength=self.counts.numel()).view(-1, columns).cpu()

    def shares(self) -> dict[str, float | None]:
        """What became of the target and of the other persons.

        Returns:
            `target_found`: share of the target's cells that were predicted as target. `others_taken`: share
            of the other persons' cells that were. `target_is_others`, `target_is_background`: share of the
            cells predicted as target that are another person's, or nobody's. None where there are no cells.
        """
        truth, as_target = self.counts.sum(dim=1), self.counts[:, TARGET]
        return {
            "target_found": _share(as_target[TARGET], truth[TARGET]),
            "others_taken": _share(as_target[NON_TARGET], truth[NON_TARGET]),
            "target_is_others": _share(as_target[NON_TARGET], as_target.sum()),
            "target_is_background": _share(as_target[0], as_target.sum()),
        }

    def summary(self) -> dict[str, Any]:
        """For json: the counts by true, then predicted class."""
        names = CLASS_NAMES if self.counts.shape[1] == len(CLASS_NAMES) else ("rest", "target")
        return {
            true: dict(zip(names, row, strict=True))
            for true, row in zip(CLASS_NAMES, self.counts.tolist(), strict=True)
        }


def _share(part: Tensor, whole: Tensor) -> float | None:
    return float(part / whole) if whole else None
