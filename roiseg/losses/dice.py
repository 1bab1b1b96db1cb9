"""Dice loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm


class Dice(LossTerm):
    """1 - Dice of softmax probabilities, mean over ROIs and chosen classes (Milletari et al., V-Net, 2016).

    Each ROI counts the same, whatever its share of foreground.

    Args:
        classes: class indices; 1 (the target) by default. A class the decoder lacks is left out, so
            that [1, 2] serves 2-class runs too.
        smooth: added to numerator and denominator, in cells; what an absent class is measured by.
    """

    def __init__(self, classes: Sequence[int] = (1,), smooth: float = 1.0) -> None:
        super().__init__()
        if not classes or not set(classes) <= {0, 1, 2}:
            raise UserError(f"loss: classes of the dice term must be some of 0, 1, 2, got {list(classes)}")
        if smooth <= 0:
            raise UserError(f"loss: smooth of the dice term must be above 0, got {smooth}")
        self.classes = [int(c) for c in classes]
        self.smooth = smooth

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 for R = 0."""
        valid = given.valid
        classes = [c for c in self.classes if c < given.logits.shape[1]]
        index = torch.tensor(classes, dtype=torch.long, device=given.logits.device)
        probability = given.precise_logits.softmax(dim=1)[:, index] * valid[:, None]
        truth = (given.target[:, None] == index[:, None, None]).to(probability.dtype)
        overlap = (probability * truth).sum(dim=(2, 3))
        sizes = probability.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        dice = (2 * overlap + self.smooth) / (sizes + self.smooth)
        return (1 - dice).sum() / max(1, dice.numel())
