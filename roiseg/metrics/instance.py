"""Instance masks at original resolution, how well they match the annotations, means by size and crowding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from roiseg.data.analysis import CROWDED
from roiseg.data.batch import RoiBatch, RoiPrediction, RoiSample
from roiseg.geometry.paste import Window, largest, owned, paste_crop
from roiseg.geometry.rle import bounds, decode_window
from roiseg.metrics.registry import ALL_INSTANCES


class InstanceRecord(NamedTuple):
    """One evaluated instance and how well its mask matches."""

    image_id: int
    file_name: str
    annotation_id: int
    # its annotated box, the ROI, in original pixels
    x1: float
    y1: float
    x2: float
    y2: float
    area: int  # area of the annotated mask, in original pixels
    non_target_share: float  # share of the ROI's cells that other annotated persons cover, 0 to 1
    iou: float  # IoU of predicted and annotated mask; 0 if the annotated mask is empty
    boundary_iou: float  # IoU of the pixels near the edges of both masks (Cheng et al., 2021)
    mask_score: float  # predicted IoU


@dataclass(frozen=True)
class PastedMask:
    """The predicted mask of one ROI at the resolution of its original image."""

    sample: RoiSample
    index: int  # number of the ROI in the image
    roi: NDArray[np.float32]  # [4] box in original pixels; the mask is empty outside it
    mask: NDArray[np.bool_]  # [y2 - y1, x2 - x1] within `window`
    window: Window  # x1, y1, x2, y2 in original pixels; the mask is empty outside it
    score: float  # predicted IoU with the annotation, 0 to 1; 1 if no decision was made

    def canvas(self) -> NDArray[np.bool_]:
        """Return the mask [H, W] of the whole image."""
        canvas = np.zeros(self.sample.original_size, bool)
        x1, y1, x2, y2 = self.window
        canvas[y1:y2, x1:x2] = self.mask
        return canvas


def paste_masks(prediction: RoiPrediction, batch: RoiBatch) -> list[PastedMask]:
    """Paste predicted masks at the resolution of the original images, in the order of the batch."""
    maps = iter(prediction.masks.detach().float().cpu())
    scores = iter([1.0] * len(prediction.masks) if prediction.scores is None else prediction.scores.tolist())
    pasted = []
    boxes = zip(batch.samples, batch.original_boxes(), batch.original_boxes(prediction.extents), strict=True)
    for sample, rois, extents in boxes:
        crops = []
        for roi, extent in zip(rois, extents, strict=True):
            values = next(maps)
            if sample.transform.scale_x < 0:
                values = values.flip(-1)
            with torch.autocast("cpu", enabled=False):  # a validation step on the CPU may be in bfloat16
                crops.append(paste_crop(values, extent, sample.original_size, within=roi))
        owners = largest(crops, sample.original_size) if prediction.exclusive else None
        for index, (roi, (values, window)) in enumerate(zip(rois, crops, strict=True)):
            mask = owned(index, values, window, owners)
            pasted.append(PastedMask(sample, index, roi, mask, window, next(scores)))
    return pasted


def measure_instances(masks: Iterable[PastedMask], boundary_width: float = 0.02) -> list[InstanceRecord]:
    """Compare pasted masks with the original annotations, one record per ROI.

    Args:
        masks: masks of samples from an evaluation loader, which carry the annotated masks.
        boundary_width: width of a mask's boundary, as a share of the image's diagonal.
    """
    return [_measure(pasted, boundary_width) for pasted in masks]


def _measure(pasted: PastedMask, boundary_width: float) -> InstanceRecord:
    sample, index = pasted.sample, pasted.index
    radius = max(1, round(boundary_width * float(np.hypot(*sample.original_size))))
    prediction, truth = _with_annotation(pasted)
    boundaries = _boundary(prediction, radius), _boundary(truth, radius)
    x1, y1, x2, y2 = pasted.roi.tolist()
    return InstanceRecord(
        sample.image_id, sample.file_name, int(sample.truth.annotation_ids[index]), x1, y1, x2, y2,
        int(np.count_nonzero(truth)), float(sample.truth.non_target_shares[index]),
        _iou(prediction, truth), _iou(*boundaries), round(pasted.score, 5),
    )  # fmt: skip


def instance_iou(pasted: PastedMask) -> float:
    """Return the IoU of a pasted mask with its annotated mask; 0 if both are empty."""
    return _iou(*_with_annotation(pasted))


def _with_annotation(pasted: PastedMask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the mask and its annotated mask in a window that holds both."""
    annotation, mask, window = pasted.sample.truth.rles[pasted.index], pasted.mask, pasted.window
    both = _union(window, bounds(annotation))
    truth = decode_window(annotation, both)
    prediction = np.zeros_like(truth)
    if mask.size:
        y, x = window[1] - both[1], window[0] - both[0]
        prediction[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return prediction, truth


def _union(a: Window, b: Window) -> Window:
    """Return the smallest window around both; one pixel if both are empty."""
    filled = [window for window in (a, b) if window[2] > window[0] and window[3] > window[1]]
    if not filled:
        return 0, 0, 1, 1
    x1, y1, x2, y2 = zip(*filled, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def _boundary(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Return the pixels of `mask` within `radius` (Chebyshev) of its edge; arrays are padded with 0."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0, 0))
    return mask & (inner == 0)


COCO_AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}  # original pixels
_SIDES = (0, 16, 32, 64, 96, 192, math.inf)  # ROI side limits, input pixels


class InstanceGroup(NamedTuple):
    """Means over the instances of one group."""

    criterion: str  # what divides the instances: "annotated area", "ROI side, input" or "crowding"
    name: str  # the group within the criterion, such as "small"
    instances: int
    means: dict[str, float]  # mean of each metric of `ALL_INSTANCES`, by name

    def summary(self) -> dict[str, Any]:
        """Return the group as one flat dict, for JSON."""
        return {
            "criterion": self.criterion, "group": self.name, "instances": self.instances, **self.means
        }  # fmt: skip


def group_instances(records: Sequence[InstanceRecord], sides: Sequence[float]) -> list[InstanceGroup]:
    """Group instances by annotated area (COCO's classes), by ROI side, and by crowding.

    Crowded instances are those with other annotated persons on more than a tenth of their ROI.

    Args:
        sides: square root of each ROI's area in the detector's INPUT pixels, in the same order: the size at
            which the features see it.

    Returns:
        The groups that are not empty. The lower limit of a size range belongs to it.
    """
    values = {
        metric.name: np.array([metric.value(record) for record in records], float) for metric in ALL_INSTANCES
    }
    return [
        InstanceGroup(
            criterion,
            name,
            int(members.sum()),
            {key: float(of[members].mean()) for key, of in values.items()},
        )
        for criterion, name, members in _divisions(records, sides)
        if members.any()
    ]


def _divisions(
    records: Sequence[InstanceRecord], sides: Sequence[float]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    area, side = np.array([record.area for record in records]), np.array(sides)
    for name, (smallest, limit) in COCO_AREAS.items():
        yield "annotated area", name, (smallest <= area) & (area < limit)
    for low, high in pairwise(_SIDES):
        name = f"{low}+ px" if math.isinf(high) else f"{low}-{high} px"
        yield "ROI side, input", name, (low <= side) & (side < high)
    crowded = np.array([record.non_target_share > CROWDED for record in records], bool)
    yield "crowding", "crowded", crowded
    yield "crowding", "not crowded", ~crowded
