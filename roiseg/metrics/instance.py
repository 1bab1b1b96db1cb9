"""What one predicted instance is worth, at the resolution of its original image."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from roiseg.data.batch import RoiBatch, RoiSample
from roiseg.geometry.paste import Window, paste_crop
from roiseg.geometry.rle import bounds, decode_window
from roiseg.metrics.registry import INSTANCE_METRICS


class InstanceRecord(NamedTuple):
    """One instance of an evaluation, and how well its mask was met.

    Attributes:
        image_id, file_name, annotation_id: which one, as the annotations call it.
        x1, y1, x2, y2: its annotated box, the ROI, in original pixels.
        area: of the annotated mask, in original pixels.
        non_target_share: share 0..1 of the ROI's cells that other annotated persons cover.
        iou: of predicted and annotated mask; 0 where nothing is annotated, whatever is predicted.
        boundary_iou: of those of their pixels that are near their edges (Cheng et al., 2021).
    """

    image_id: int
    file_name: str
    annotation_id: int
    x1: float
    y1: float
    x2: float
    y2: float
    area: int
    non_target_share: float
    iou: float
    boundary_iou: float


@dataclass(frozen=True)
class PastedMask:
    """The predicted mask of one ROI at the resolution of its original image.

    Attributes:
        sample, index: the image it belongs to, and which of its ROIs it is.
        roi: [4] box in original pixels; nothing outside of it is mask.
        mask: [y2 - y1, x2 - x1] within `window`.
        window: x1, y1, x2, y2 in original pixels, outside of which there is no mask.
        quality: see `mask_quality`.
    """

    sample: RoiSample
    index: int
    roi: NDArray[np.float32]
    mask: NDArray[np.bool_]
    window: Window
    quality: float


def mask_quality(values: NDArray[np.float32], threshold: float = 0.5) -> float:
    """How sure a model is of a mask: mean probability over its pixels; 0 for an empty one.

    `maskness` of Wang et al. (SOLOv2, 2020).

    Args:
        values: [h, w] probabilities.
        threshold: probability from which on a pixel is mask.
    """
    inside = values[values >= threshold]
    return float(inside.mean(dtype=np.float64)) if inside.size else 0.0


def paste_masks(target: Tensor, extents: Tensor, batch: RoiBatch, threshold: float = 0.5) -> list[PastedMask]:
    """Paste predictions at the resolution of the original images, in the order of the batch.

    Args:
        target: [R, h, w] probability of the target.
        extents: [R, 4] boxes in input pixels that it is stretched over.
        batch: its ROIs and images.
        threshold: a pixel of this probability or more is mask.
    """
    maps = iter(target.detach().float().cpu())
    pasted = []
    boxes = zip(batch.samples, batch.original_boxes(), batch.original_boxes(extents), strict=True)
    for sample, rois, frames in boxes:
        for index, (roi, frame) in enumerate(zip(rois, frames, strict=True)):
            shown = next(maps)
            if sample.transform.scale_x < 0:
                shown = shown.flip(-1)
            with torch.autocast("cpu", enabled=False):  # a validation step on the CPU may be in bfloat16
                values, window = paste_crop(shown, frame, sample.original_size, within=roi)
            mask = values >= threshold
            pasted.append(PastedMask(sample, index, roi, mask, window, mask_quality(values, threshold)))
    return pasted


def measure_instances(masks: Iterable[PastedMask], boundary_width: float = 0.02) -> list[InstanceRecord]:
    """Compare pasted masks with the original annotations, one record per ROI.

    Args:
        masks: of samples from an evaluation loader, which carry the annotated masks.
        boundary_width: how far from the edge a mask's boundary reaches, as a share of the image's diagonal.
    """
    return [_measure(pasted, boundary_width) for pasted in masks]


def _measure(pasted: PastedMask, boundary_width: float) -> InstanceRecord:
    sample, index = pasted.sample, pasted.index
    radius = max(1, round(boundary_width * float(np.hypot(*sample.original_size))))
    area, iou, boundary_iou = _compare(pasted.mask, pasted.window, sample.truth.rles[index], radius)
    x1, y1, x2, y2 = pasted.roi.tolist()
    return InstanceRecord(
        sample.image_id, sample.file_name, int(sample.truth.annotation_ids[index]), x1, y1, x2, y2,
        area, float(sample.truth.non_target_shares[index]), iou, boundary_iou,
    )  # fmt: skip


def _compare(
    shown: NDArray[np.bool_], window: Window, annotation: dict[str, Any], radius: int
) -> tuple[int, float, float]:
    """Annotated area, IoU and boundary IoU of a mask that is 0 outside `window`."""
    both = _union(window, bounds(annotation))
    truth = decode_window(annotation, both)
    prediction = np.zeros_like(truth)
    if shown.size:
        y, x = window[1] - both[1], window[0] - both[0]
        prediction[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
    boundaries = _boundary(prediction, radius), _boundary(truth, radius)
    return int(np.count_nonzero(truth)), _iou(prediction, truth), _iou(*boundaries)


def _union(a: Window, b: Window) -> Window:
    """Smallest window that holds both; one pixel of the image if both are empty."""
    filled = [window for window in (a, b) if window[2] > window[0] and window[3] > window[1]]
    if not filled:
        return 0, 0, 1, 1
    x1, y1, x2, y2 = zip(*filled, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def _boundary(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Pixels of `mask` within `radius` (Chebyshev) of its edge; beyond the frame of the array is no mask."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0))
    return mask & (inner == 0)


class InstanceMetrics(Metric):
    """Means over instances, an entry of `INSTANCE_METRICS` each; one without an instance is left out."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for metric in INSTANCE_METRICS:
            for state in ("sum", "count"):
                self.add_state(f"{metric.name}_{state}", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, records: Iterable[InstanceRecord]) -> None:
        """Add the instances of a batch."""
        for metric, record in itertools.product(INSTANCE_METRICS, records):
            if metric.among is None or metric.among(record):
                setattr(
                    self,
                    f"{metric.name}_sum",
                    getattr(self, f"{metric.name}_sum") + float(metric.value(record)),
                )
                setattr(self, f"{metric.name}_count", getattr(self, f"{metric.name}_count") + 1)

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all instances so far."""
        means = {}
        for metric in INSTANCE_METRICS:
            total, count = (getattr(self, f"{metric.name}_{state}") for state in ("sum", "count"))
            if count > 0 or metric.among is None:
                means[metric.name] = total / count.clamp(min=1)
        return means
