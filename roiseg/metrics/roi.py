"""Metrics of ROI predictions, shared by validation, the test of a training and `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from roiseg.common.classes import BACKGROUND, CLASS_NAMES, IGNORE, NON_TARGET, TARGET
from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.metrics.instance import (
    InstanceMetrics,
    InstanceRecord,
    PastedMask,
    measure_instances,
    paste_masks,
)


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
