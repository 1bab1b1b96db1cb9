"""What validation measures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from roiseg.common.classes import CLASS_NAMES, IGNORE, TARGET
from roiseg.data.analysis import CROWDED
from roiseg.metrics.instance import InstanceRecord


class PixelMetrics(MetricCollection):
    """Metrics of class maps on a grid over each ROI, pixels pooled over all ROIs (torchmetrics).

    `miou`: mean over classes of IoU; `pixel_accuracy`; `mean_pixel_accuracy`: mean over classes of recall;
    `dice`: mean over classes of Dice (= F1); per class: `<class>_iou`, `<class>_dice`. Means leave out a
    class that is neither predicted nor true anywhere; its own figures are 0. A ROI without a target pixel
    says nothing of a target and is not counted; without any other all figures are 0.
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
        if predicted.numel():  # torchmetrics cannot reshape nothing
            empty = (truth != TARGET).flatten(1).all(dim=1)
            super().update(predicted, truth.masked_fill(empty[:, None, None], IGNORE))

    def scalars(self) -> dict[str, Tensor]:
        """Scalars by name."""
        result = {name: value.nan_to_num(0) for name, value in self.compute().items()}  # nothing was counted
        for kind in ("iou", "dice"):
            for name, value in zip(CLASS_NAMES, result.pop(f"class_{kind}"), strict=False):
                result[f"{name}_{kind}"] = value
        return result


class InstanceMetrics(Metric):
    """Means over instances measured at original resolution.

    `instance_iou`: mean IoU. `instance_iou75`: share of instances with an IoU of 0.75 or more.
    `boundary_iou`: mean boundary IoU. `crowded_iou`: mean IoU of the instances of whose ROI other
    annotated persons cover more than a tenth; absent if there is none.
    """

    full_state_update = False
    iou: Tensor
    iou75: Tensor
    boundary: Tensor
    count: Tensor
    crowded: Tensor
    crowded_count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("iou", "iou75", "boundary", "count", "crowded", "crowded_count"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, records: Iterable[InstanceRecord]) -> None:
        """Add the instances of a batch."""
        for record in records:
            self.iou += record.iou
            self.iou75 += float(record.iou >= 0.75)
            self.boundary += record.boundary_iou
            self.count += 1
            if record.non_target_share > CROWDED:
                self.crowded += record.iou
                self.crowded_count += 1

    def compute(self) -> dict[str, Tensor]:
        """Means over all instances so far."""
        count = self.count.clamp(min=1)
        means = {
            "instance_iou": self.iou / count,
            "instance_iou75": self.iou75 / count,
            "boundary_iou": self.boundary / count,
        }
        if self.crowded_count > 0:
            means["crowded_iou"] = self.crowded / self.crowded_count
        return means
