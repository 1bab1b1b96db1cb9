"""Dice loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm, chosen_classes, class_maps


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
        if smooth <= 0:
            raise UserError(f"loss: smooth of the dice term must be above 0, got {smooth}")
        self.classes = chosen_classes(classes, "dice")
        self.smooth = smooth

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 for R = 0."""
        probability, truth = class_maps(given, self.classes)
        weights = given.weights[:, None]
        overlap = (weights * probability * truth).sum(dim=(2, 3))
        sizes = (weights * (probability + truth)).sum(dim=(2, 3))
        dice = (2 * overlap + self.smooth) / (sizes + self.smooth)
        return (1 - dice).sum() / max(1, dice.numel())
