"""Metrics of ROI predictions, shared by validation, the test of a training and `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from roiseg.common.classes import BACKGROUND, NON_TARGET
from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.metrics.instance import (
    InstanceMetrics,
    InstanceRecord,
    PastedMask,
    measure_instances,
    paste_masks,
)
from roiseg.metrics.pixel import PixelMetrics


@dataclass(frozen=True)
class MeasuredBatch:
    """Prediction and measurements of a batch; the output of a validation or test step.

    Attributes:
        prediction: see `RoiPrediction`.
        masks: target masks at original resolution, one per ROI.
        records: how well each mask matches, in the same order.
    """

    prediction: RoiPrediction
    masks: list[PastedMask]
    records: list[InstanceRecord]


class RoiMetrics(nn.Module):
    """Pixel metrics on the grid over each ROI and instance metrics at original resolution.

    Args:
        num_classes: number of predicted classes; with two, non-target pixels count as background.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixel = PixelMetrics(num_classes)
        self.instance = InstanceMetrics()

    def update(self, prediction: RoiPrediction, batch: RoiBatch) -> MeasuredBatch:
        """Measure a batch from an evaluation loader and add it."""
        truth = batch.metric_targets.to(prediction.grid_classes.device).long()
        if self.num_classes <= NON_TARGET:
            truth = truth.masked_fill(truth == NON_TARGET, BACKGROUND)
        self.pixel.update(prediction.grid_classes, truth)
        masks = paste_masks(prediction, batch)
        records = measure_instances(masks)
        self.instance.update(records)
        return MeasuredBatch(prediction, masks, records)

    def compute(self) -> dict[str, Tensor]:
        """Return every metric by name, over all batches and processes since the last `reset`."""
        return self.pixel.scalars() | self.instance.compute()

    def reset(self) -> None:
        """Discard all batches."""
        self.pixel.reset()
        self.instance.reset()
