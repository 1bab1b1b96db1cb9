"""Metrics of ROI predictions, shared by validation, the test of a training and `evaluate`; means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from roiseg.common.classes import BACKGROUND, CLASS_NAMES, IGNORE, NON_TARGET, TARGET
from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.metrics.instance import (
    InstanceRecord,
    PastedMask,
    measure_instances,
    paste_masks,
)
from roiseg.metrics.registry import INSTANCE_METRICS


class Means(Metric):
    """Weighted means of named values over all processes; a value that no process measured is left out.

    Args:
        names: every possible value; a process that measures none needs them to synchronise.
    """

    full_state_update = False
    sums: Tensor
    weights: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        for state in ("sums", "weights"):
            self.add_state(state, torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor | float], weight: float) -> None:
        """Add values of the same weight."""
        for name, value in values.items():
            number = self.names.index(name)
            self.sums[number] += torch.as_tensor(value).detach().float() * weight
            self.weights[number] += weight

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name."""
        found = zip(self.names, self.sums, self.weights, strict=True)
        return {name: total / weight for name, total, weight in found if weight}


class InstanceMetrics(Means):
    """Means over instances, one per entry of `INSTANCE_METRICS`; a mean over no instances is left out."""

    def __init__(self) -> None:
        super().__init__([metric.name for metric in INSTANCE_METRICS])

    def update(self, records: Sequence[InstanceRecord]) -> None:  # type: ignore[override]
        """Add the instances of a batch."""
        for metric in INSTANCE_METRICS:
            values = [float(metric.value(r)) for r in records if metric.among is None or metric.among(r)]
            if values:
                super().update({metric.name: sum(values) / len(values)}, len(values))

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all instances since the last `reset`; 0 without any instance."""
        return {
            m.name: self.sums.new_zeros(()) for m in INSTANCE_METRICS if m.among is None
        } | super().compute()


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


@dataclass(frozen=True)
class MeasuredBatch:
    """Prediction and measurements of a batch; the output of a validation or test step."""

    prediction: RoiPrediction
    masks: list[PastedMask]  # target masks at original resolution, one per ROI
    records: list[InstanceRecord]  # how well each mask matches, in the same order


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


class PixelMetrics(MetricCollection):
    """Metrics of class maps on a grid over each ROI, pixels pooled over all ROIs (torchmetrics).

    `miou`: mean IoU of the classes; `pixel_accuracy`; `mean_pixel_accuracy`: mean recall of the classes;
    `dice`: mean Dice (= F1) of the classes; per class: `<class>_iou`, `<class>_dice`. Means leave out a class
    that is neither predicted nor annotated anywhere; its own figures are 0. ROIs without a target pixel are
    not counted; if there are no others, all figures are 0.
    """

    def __init__(self, num_classes: int) -> None:
        common: dict[str, Any] = {"num_classes": num_classes, "ignore_index": IGNORE, "validate_args": False}
        groups = [["miou", "class_iou"], ["pixel_accuracy"], ["mean_pixel_accuracy", "dice", "class_dice"]]
        super().__init__(
            {
                "miou": MulticlassJaccardIndex(average="macro", **common),
                "class_iou": MulticlassJaccardIndex(average="none", **common),
                "pixel_accuracy": MulticlassAccuracy(average="micro", **common),
                "mean_pixel_accuracy": MulticlassAccuracy(average="macro", **common),
                "dice": MulticlassF1Score(average="macro", **common),
                "class_dice": MulticlassF1Score(average="none", **common),
            },
            compute_groups=groups,
        )

    def update(self, predicted: Tensor, truth: Tensor) -> None:  # type: ignore[override]
        """Count the pixels of class maps [R, h, w]; 255 in `truth` is ignored."""
        if predicted.numel():  # torchmetrics fails on empty input
            empty = (truth != TARGET).flatten(1).all(dim=1)
            super().update(predicted, truth.masked_fill(empty[:, None, None], IGNORE))

    def scalars(self) -> dict[str, Tensor]:
        """Return every metric as a scalar, by name."""
        result = {name: value.nan_to_num(0) for name, value in self.compute().items()}  # NaN: no pixels
        for kind in ("iou", "dice"):
            for name, value in zip(CLASS_NAMES, result.pop(f"class_{kind}"), strict=False):
                result[f"{name}_{kind}"] = value
        return result
