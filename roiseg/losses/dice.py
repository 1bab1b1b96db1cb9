"""Losses of overlap: Tversky and Dice."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import TARGET
from roiseg.common.errors import require_any
from roiseg.losses.base import Classes, LossInput, LossTerm, class_maps, weighted_mean


class Tversky(LossTerm):
    """1 - Tversky index of softmax probabilities, mean over ROIs and chosen classes (Salehi et al., 2017).

    Dice with separate weights of false positives and false negatives: the index is
    (TP + smooth) / (TP + alpha FP + beta FN + smooth); alpha = beta = 0.5 is Dice with twice the smooth.

    Differs from the source: an index for each ROI instead of one over the whole volume, and `smooth`.

    Args:
        classes: class indices; 1 (the target) by default. A class the decoder lacks is left out.
        alpha: weight of false positives; the source finds 0.3 best.
        beta: weight of false negatives; the source finds 0.7 best.
        smooth: added to numerator and denominator, in cells; what a missing class is measured by.

    Raises:
        UserError: both prices are 0.
    """

    def __init__(
        self,
        classes: Classes = (1,),
        alpha: NonNegativeFloat = 0.3,
        beta: NonNegativeFloat = 0.7,
        smooth: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        require_any("loss: alpha and beta of the tversky term", alpha, beta)
        self.classes = list(classes)
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


class Dice(Tversky):
    """1 - Dice of softmax probabilities, mean over ROIs and chosen classes (Milletari et al., V-Net, 2016).

    Each ROI counts the same, whatever its share of foreground.

    Args:
        classes: class indices; 1 (the target) by default. A class the decoder lacks is left out, so
            that [1, 2] serves 2-class runs too.
        smooth: added to numerator and denominator, in cells; what a missing class is measured by.
    """

    def __init__(self, classes: Classes = (1,), smooth: PositiveFloat = 1.0) -> None:
        super().__init__(classes, 0.5, 0.5, smooth / 2)


class BceDice(LossTerm):
    """The target's mask alone, as instance heads learn it: binary cross-entropy plus Dice.

    Reads the logit of the target against all other classes, whose sigmoid p is the target's softmax
    probability. Other classes are not distinguished, so class weights do not apply. Cross-entropy is
    the mean over pixels, as in Mask R-CNN; Dice is the mean over ROIs of
    1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth), or with `squared`
    1 - (2 sum(p g) + smooth) / (sum(p^2) + sum(g^2) + smooth), as in V-Net (Milletari et al., 2016) and
    CondInst (Tian et al., 2020), which takes Dice only and 1e-5 for `smooth`.

    Differs from CondInst: `smooth` is in the numerator too, so that a ROI without target, predicted so,
    costs nothing.

    Args:
        bce_weight, dice_weight: weights of the two.
        squared: Dice with squares in the denominator.
        smooth: added to numerator and denominator of Dice, in cells.

    Raises:
        UserError: both weights are 0.
    """

    def __init__(
        self,
        bce_weight: NonNegativeFloat = 1.0,
        dice_weight: NonNegativeFloat = 1.0,
        squared: bool = False,
        smooth: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        require_any("loss: bce_weight and dice_weight of the bce_dice term", bce_weight, dice_weight)
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.power = 2 if squared else 1
        self.smooth = smooth

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no pixel counts."""
        logits, weights = given.instance_logits, given.weights
        truth = (given.target == TARGET).to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        probability = logits.sigmoid()
        overlap = (weights * probability * truth).sum(dim=(1, 2))
        sizes = (weights * (probability**self.power + truth)).sum(dim=(1, 2))
        dice = (2 * overlap + self.smooth) / (sizes + self.smooth)
        missing = (1 - dice).sum() / max(1, len(dice))
        return self.bce_weight * weighted_mean(bce, weights) + self.dice_weight * missing
