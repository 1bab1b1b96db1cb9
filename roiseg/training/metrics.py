"""What validation measures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from roiseg.common.classes import CLASS_NAMES, IGNORE
from roiseg.data.batch import RoiBatch
from roiseg.data.rle import bounds, decode_window
from roiseg.geometry.paste import Window, paste_crop


class PixelMetrics(MetricCollection):
    """Metrics of class maps on a grid over each ROI, pixels pooled over all ROIs (torchmetrics).

    `miou`: mean over classes of IoU; `pixel_accuracy`; `mean_pixel_accuracy`: mean over classes of recall;
    `dice`: mean over classes of Dice (= F1); per class: `<class>_iou`, `<class>_dice`. Means leave out a
    class that is neither predicted nor true anywhere; its own figures are 0.
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
            super().update(predicted, truth)

    def scalars(self) -> dict[str, Tensor]:
        """Scalars by name."""
        result = self.compute()
        for kind in ("iou", "dice"):
            for name, value in zip(CLASS_NAMES, result.pop(f"class_{kind}"), strict=False):
                result[f"{name}_{kind}"] = value
        return result


class InstanceMetrics(Metric):
    """Metrics of target masks pasted at ORIGINAL resolution, against the original annotation.

    `instance_iou`: mean IoU over instances. `instance_iou75`: share of instances with an IoU of 0.75
    or more. `boundary_iou`: mean boundary IoU (Cheng et al., 2021), boundaries 2 % of the image
    diagonal wide. Probabilities of 0.5 and above are mask.
    """

    full_state_update = False
    iou: Tensor
    iou75: Tensor
    boundary: Tensor
    count: Tensor

    def __init__(self, boundary_width: float = 0.02) -> None:
        super().__init__()
        self.boundary_width = boundary_width
        for name in ("iou", "iou75", "boundary", "count"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, batch: RoiBatch, windows: Tensor | None = None) -> None:
        """Measure the ROIs of a batch.

        Args:
            probabilities: [R, h, w] of the target.
            batch: from an evaluation loader (its samples carry the true masks).
            windows: [R, 4] boxes in input pixels the probabilities are stretched over; default: the ROIs.
        """
        masks = iter(probabilities.float().cpu())
        frames = batch.original_boxes(windows)
        for sample, rois, boxes in zip(batch.samples, batch.original_boxes(), frames, strict=True):
            mirrored = sample.transform.scale_x < 0
            for roi, box, truth in zip(rois, boxes, sample.truths, strict=True):
                mask = next(masks)
                with torch.autocast("cpu", enabled=False):  # a validation step on the CPU may be in bfloat16
                    shown = mask.flip(-1) if mirrored else mask
                    height, width = truth["size"]
                    values, window = paste_crop(shown, box, (height, width), within=roi)
                self._add(values >= 0.5, window, truth)

    def compute(self) -> dict[str, Tensor]:
        """Means over all instances so far."""
        count = self.count.clamp(min=1)
        return {
            "instance_iou": self.iou / count,
            "instance_iou75": self.iou75 / count,
            "boundary_iou": self.boundary / count,
        }

    def _add(self, shown: NDArray[np.bool_], window: Window, annotation: dict[str, Any]) -> None:
        both = _union(window, bounds(annotation))
        truth = decode_window(annotation, both)
        prediction = np.zeros_like(truth)
        if shown.size:
            y, x = window[1] - both[1], window[0] - both[0]
            prediction[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
        radius = max(1, round(self.boundary_width * float(np.hypot(*annotation["size"]))))
        value = _iou(prediction, truth)
        self.iou += value
        self.iou75 += float(value >= 0.75)
        self.boundary += _iou(_boundary(prediction, radius), _boundary(truth, radius))
        self.count += 1


def _union(a: Window, b: Window) -> Window:
    """Smallest window that holds both; one pixel of the image if both are empty."""
    filled = [window for window in (a, b) if window[2] > window[0] and window[3] > window[1]]
    if not filled:
        return 0, 0, 1, 1
    x1, y1, x2, y2 = zip(*filled, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _boundary(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels of `mask` within `radius` (Chebyshev) of its edge; beyond the frame of the array is no mask."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0))
    return mask & (inner == 0)
