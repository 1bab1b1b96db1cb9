"""Means of losses over ROIs and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class LossMeans(Metric):
    """Means of losses over the ROIs of all processes; a loss that no process measured is left out.

    Args:
        names: every possible loss; a process that measures none needs them to synchronise.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        for state in ("sums", "counts"):
            self.add_state(state, torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, losses: Mapping[str, Tensor], rois: int) -> None:
        """Add the losses of a batch of `rois` ROIs."""
        for name, value in losses.items():
            number = self.names.index(name)
            self.sums[number] += value.detach().float() * rois
            self.counts[number] += rois

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of each loss by name."""
        return {
            name: total / count
            for name, total, count in zip(self.names, self.sums, self.counts, strict=True)
            if count
        }


class WeightedMean(Metric):
    """Weighted mean over all processes; NaN stays NaN.

    torchmetrics' `MeanMetric` ignores the weights when its `nan_strategy` is "disable".
    """

    full_state_update = False
    mean_value: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("mean_value", "weight"):
            self.add_state(state, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: float) -> None:
        """Add a value."""
        self.mean_value += value.detach().float() * weight
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.mean_value / self.weight
