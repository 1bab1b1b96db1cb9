"""Tversky loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm, chosen_classes, class_maps


class Tversky(LossTerm):
    """1 - Tversky index of softmax probabilities, mean over ROIs and chosen classes (Salehi et al., 2017).

    Dice with a price of its own for each kind of mistake: the index is
    (TP + smooth) / (TP + alpha FP + beta FN + smooth); alpha = beta = 0.5 is Dice with twice the smooth.

    Differs from the source: an index for each ROI instead of one over the whole volume, and `smooth`.

    Args:
        classes: class indices; 1 (the target) by default. A class the decoder lacks is left out.
        alpha: price of what is predicted wrongly; the source finds 0.3 best.
        beta: price of what is missed; the source finds 0.7 best.
        smooth: added to numerator and denominator, in cells; what an absent class is measured by.

    Raises:
        UserError: a negative price, both 0, or a smooth that is not above 0.
    """

    def __init__(
        self, classes: Sequence[int] = (1,), alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0
    ) -> None:
        super().__init__()
        if min(alpha, beta) < 0 or alpha + beta <= 0:
            raise UserError(
                "loss: alpha and beta of the tversky term must be 0 or more and not both 0, "
                f"got {alpha} and {beta}"
            )
        if smooth <= 0:
            raise UserError(f"loss: smooth of the tversky term must be above 0, got {smooth}")
        self.classes = chosen_classes(classes, "tversky")
        self.alpha = alpha
        self.beta = beta
        self.smooth = smooth

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 for R = 0."""
        probability, truth = class_maps(given, self.classes)
        weights = given.weights[:, None]
        hit = (weights * probability * truth).sum(dim=(2, 3))
        wrong = (weights * probability * (1 - truth)).sum(dim=(2, 3))
        missed = (weights * (1 - probability) * truth).sum(dim=(2, 3))
        index = (hit + self.smooth) / (hit + self.alpha * wrong + self.beta * missed + self.smooth)
        return (1 - index).sum() / max(1, index.numel())
