"""Fit the numbers of a decision to annotated ROIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roiseg.data.batch import RoiBatch, RoiPrediction
from roiseg.geometry.boxes import iou
from roiseg.inference.decision import Decision, with_votes
from roiseg.inference.model import RoiModel
from roiseg.metrics.instance import PastedMask, instance_iou, paste_masks
from roiseg.metrics.mask_score import fit_calibration


class DecisionFit:
    """Predictions of annotated ROIs, to compare decisions by the IoU of their masks.

    Probabilities and votes are kept in half precision: 10 bytes per cell of the decoder's grid.
    """

    def __init__(self, model: RoiModel) -> None:
        self.model = model
        self.rois = 0
        self._predictions: list[tuple[RoiPrediction, RoiBatch]] = []
        self._known: dict[Decision, NDArray[np.float64]] = {}

    def update(self, batch: RoiBatch) -> None:
        """Predict a batch from an evaluation loader, and keep the result."""
        prediction = with_votes(self.model.predict(batch), batch.rois, self.model.image_size)
        prediction = replace(prediction, grid_target=batch.rois[:0], grid_classes=batch.rois[:0])
        grids = RoiPrediction.map_tensors(lambda tensors: tensors[0].half().cpu(), prediction)
        kept = RoiBatch(batch.images[:0].cpu(), batch.rois.cpu(), batch.targets[:0].cpu(), batch.samples)
        self._predictions.append((replace(grids, extents=prediction.extents.cpu()), kept))
        self.rois += len(batch.rois)

    def masks(self, decision: Decision) -> list[PastedMask]:
        """Return the masks of all ROIs, in the order of the batches."""
        return [
            mask
            for prediction, batch in self._predictions
            for mask in paste_masks(decision(prediction, batch.rois, self.model.image_size), batch)
        ]

    def ious(self, decision: Decision) -> NDArray[np.float64]:
        """Return the IoU [R] of each mask with its annotation at original resolution."""
        if decision not in self._known:
            self._known[decision] = np.array([instance_iou(mask) for mask in self.masks(decision)])
        return self._known[decision]

    def overlapping(self) -> NDArray[np.bool_]:
        """Return which ROIs [R] have an IoU above 0.5 with another (as in Zhang et al., Pose2Seg, 2019)."""
        found: list[bool] = []
        for _, batch in self._predictions:
            for boxes in batch.original_boxes():
                between = iou(boxes, boxes)
                np.fill_diagonal(between, 0)
                found += [bool(row.any()) for row in between > 0.5]
        return np.array(found, dtype=np.bool_)


def shared_pixels(masks: Sequence[PastedMask]) -> int:
    """Return the number of pixels of their images that belong to two masks or more."""
    covered: dict[int, NDArray[np.uint16]] = {}
    for mask in masks:
        count = covered.setdefault(id(mask.sample), np.zeros(mask.sample.original_size, np.uint16))
        x1, y1, x2, y2 = mask.window
        count[y1:y2, x1:x2] += mask.mask
    return sum(int(np.count_nonzero(count > 1)) for count in covered.values())


def fit_decision(decision: Decision, fits: Sequence[DecisionFit]) -> Decision:
    """Return the decision whose None numbers give the largest mean IoU; unchanged without ROIs.

    The mask scores are calibrated on the same ROIs, if they are not yet.
    """
    if not sum(fit.rois for fit in fits):
        return decision
    fitted = decision.fitted(
        lambda candidate: float(np.concatenate([f.ious(candidate) for f in fits]).mean())
    )
    if decision.score_slope is not None:
        return fitted
    scores = [mask.score for fit in fits for mask in fit.masks(fitted)]
    return fitted.calibrate(fit_calibration(scores, np.concatenate([fit.ious(fitted) for fit in fits])))
