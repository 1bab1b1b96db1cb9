"""What one predicted instance is worth, at the resolution of its original image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.data.batch import RoiBatch, RoiSample
from roiseg.geometry.paste import Window, paste_crop
from roiseg.geometry.rle import bounds, decode_window


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


def measure_instances(
    probabilities: Tensor, batch: RoiBatch, windows: Tensor | None = None, boundary_width: float = 0.02
) -> list[InstanceRecord]:
    """Paste target masks at ORIGINAL resolution and compare them with the original annotations.

    Args:
        probabilities: [R, h, w] of the target; 0.5 and above are mask.
        batch: from an evaluation loader (its samples carry the true masks).
        windows: [R, 4] boxes in input pixels the probabilities are stretched over; default: the ROIs.
        boundary_width: how far from the edge a mask's boundary reaches, as a share of the image's diagonal.

    Returns:
        One record a ROI, in the order of the batch.
    """
    return list(_measured(probabilities.detach().float().cpu(), batch, windows, boundary_width))


def paste_instance(
    probability: Tensor, sample: RoiSample, box: NDArray[np.float32], roi: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], Window]:
    """One mask at original resolution.

    Args:
        probability: [h, w] of the target, on the CPU; 0.5 and above are mask.
        sample: the image it belongs to.
        box: [4] in original pixels that the probabilities are stretched over.
        roi: [4] box in original pixels outside of which nothing is mask.

    Returns:
        The mask [y2 - y1, x2 - x1] in a window x1, y1, x2, y2 of original pixels, outside of which it is 0.
    """
    shown = probability.flip(-1) if sample.transform.scale_x < 0 else probability
    with torch.autocast("cpu", enabled=False):  # a validation step on the CPU may be in bfloat16
        values, window = paste_crop(shown.float(), box, sample.original_size, within=roi)
    return values >= 0.5, window


def _measured(
    probabilities: Tensor, batch: RoiBatch, windows: Tensor | None, boundary_width: float
) -> Iterator[InstanceRecord]:
    masks = iter(probabilities)
    frames = batch.original_boxes(windows)
    for sample, rois, boxes in zip(batch.samples, batch.original_boxes(), frames, strict=True):
        radius = max(1, round(boundary_width * float(np.hypot(*sample.original_size))))
        facts = zip(sample.annotation_ids, sample.non_target_shares, sample.truths, strict=True)
        for roi, box, (annotation, share, truth) in zip(rois, boxes, facts, strict=True):
            shown, window = paste_instance(next(masks), sample, box, roi)
            area, iou, boundary_iou = _compare(shown, window, truth, radius)
            x1, y1, x2, y2 = roi.tolist()
            yield InstanceRecord(
                sample.image_id, sample.file_name, int(annotation), x1, y1, x2, y2,
                area, float(share), iou, boundary_iou,
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
