"""Losses of the target's outline."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import IGNORE, TARGET
from roiseg.losses.base import LossInput, LossTerm, roi_mean
from roiseg.losses.cross_entropy import CrossEntropy


class BoundaryDistance(LossTerm):
    """Wrong pixels cost their distance to the target's outline (Kervadec et al., 2019).

    With phi the signed distance to the outline (negative within the target), p the target's probability
    and g the truth, a ROI costs sum(e phi (p - g)) / sum(e |phi|): 0 where all is right, 1 where all is
    wrong. The mean is over ROIs that show an outline.

    This is the boundary term of `ce_dice_boundary`, because it adds what cross-entropy and Dice are blind
    to: how far off a mistake is. A mask that leaks into the neighbour costs more the further it reaches,
    one that is a cell too wide costs little. It counts from a later epoch on there, as the source lets
    it grow with training: region terms first bring the mask to its place. `BoundaryCrossEntropy` is the
    opposite, it sharpens the outline.

    Differs from the source: the distances are divided by their sum, which makes the term independent of
    the grid's and the ROI's size; the constant sum(phi g), which the source drops, is kept, so that it
    never falls below 0 (learned weights need that). The outline runs between cells, half a cell from the
    centres on both of its sides. Distances are taken on the CPU.
    """

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no ROI shows an outline."""
        truth = given.target == TARGET
        wrong = (given.instance_logits.sigmoid() - truth.to(given.precise_logits.dtype)).abs()
        return roi_mean(wrong, given.weights * outline_distances(given.target))


def outline_distances(target: Tensor) -> Tensor:
    """Compute the distance of each cell's centre to the target's outline, in cells.

    The outline lies between target and known other cells; ignored ones are neither.

    Args:
        target: [R, h, w] class indices; 255 is ignored.

    Returns:
        [R, h, w] float32 on the same device; 0 throughout ROIs without an outline.
    """
    distances = np.zeros(target.shape, np.float32)
    for labels, into in zip(target.cpu().numpy(), distances, strict=True):
        inside = labels == TARGET
        outside = ~inside & (labels != IGNORE)
        if inside.any() and outside.any():
            into[:] = np.where(inside, _distance_to(outside), _distance_to(inside)) - 0.5
    return torch.from_numpy(distances).to(target.device)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Compute the distance of each cell to the nearest one of `mask`, centre to centre."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


class BoundaryCrossEntropy(LossTerm):
    """Cross-entropy that counts cells near the target's outline more.

    A cell is near where the square of `radius` cells around it holds both target and known other cells
    (morphological gradient; for radius 1, where the mask's 8-neighbour Laplacian is not 0). Class weights
    apply as in `CrossEntropy`.

    Args:
        radius: distance in cells within which a cell counts as near.
        edge_weight: cells near the outline count 1 + `edge_weight`, all others 1.
    """

    def __init__(self, radius: PositiveInt = 2, edge_weight: NonNegativeFloat = 4.0) -> None:
        super().__init__()
        self.radius = radius
        self.edge_weight = edge_weight
        self.cross_entropy = CrossEntropy()

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no pixel counts."""
        inside = given.target == TARGET
        sides = torch.stack([inside, given.valid & ~inside], dim=1).to(given.precise_logits.dtype)
        near = F.max_pool2d(sides, 2 * self.radius + 1, stride=1, padding=self.radius).prod(dim=1)
        emphasis = 1 + self.edge_weight * near
        if given.emphasis is not None:
            emphasis = emphasis * given.emphasis
        return self.cross_entropy(replace(given, emphasis=emphasis))
