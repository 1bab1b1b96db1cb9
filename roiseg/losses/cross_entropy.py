"""Pixel-wise cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError, require_any
from roiseg.common.types import ShareBelowOne
from roiseg.losses.base import LossInput, LossTerm, weighted_mean


class CrossEntropy(LossTerm):
    """Mean cross-entropy over the pixels that count, class weights applied.

    With class weights w and emphasis e the mean is sum(e w[y] ce) / sum(e w[y]), as in torch; 0 where the
    sum of weights is.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al., 2016).
    """

    def __init__(self, label_smoothing: ShareBelowOne = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no pixel counts."""
        logits = given.precise_logits
        weights = None if given.class_weights is None else given.class_weights.to(logits.dtype)
        ce = F.cross_entropy(
            logits,
            given.target,
            weight=weights,
            ignore_index=IGNORE,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        pixels = given.weights
        total = (pixels * ce).sum()
        share = pixels if weights is None else pixels * weights[given.target.where(given.valid, 0)]
        mass = share.sum()
        return torch.where(mass > 0, total, total * 0) / mass.clamp(min=1e-6)


class FocalCrossEntropy(LossTerm):
    """Cross-entropy that counts confident correct pixels less (Lin et al., 2017).

    A pixel of class y costs (1 - p[y])^gamma * -log p[y]. The mean is that of `CrossEntropy`: with
    emphasis e, sum(e alpha[y] cost) / sum(e alpha[y]); 0 where the sum of weights is.

    Differs from the source: softmax instead of a sigmoid for each class, and the mean over weights
    instead of a sum over the anchors assigned to objects.

    Args:
        gamma: strength of down-weighting confident pixels; 0 is cross-entropy. The source uses 2.
        alpha: one number per class instead of the loss's class weights; None uses those.

    Raises:
        UserError: an alpha of 0 for every class; when it is used, an alpha that has
            not as many numbers as the decoder has classes.
    """

    alpha: Tensor | None

    def __init__(
        self, gamma: NonNegativeFloat = 2.0, alpha: Sequence[NonNegativeFloat] | None = None
    ) -> None:
        super().__init__()
        if alpha is not None:
            require_any("loss: alpha of the focal term", *alpha)
        self.gamma = gamma
        weights = None if alpha is None else torch.tensor(list(alpha), dtype=torch.float32)
        self.register_buffer("alpha", weights, persistent=False)

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no pixel counts."""
        logits = given.precise_logits
        classes = logits.shape[1]
        if self.alpha is not None and len(self.alpha) != classes:
            raise UserError(
                f"loss: alpha of the focal term has {len(self.alpha)} numbers, the decoder {classes} classes"
            )
        truth = given.target.where(given.valid, 0)
        log_p = logits.log_softmax(dim=1).gather(1, truth[:, None])[:, 0]
        unsure = (-torch.expm1(log_p)).clamp(min=1e-12)  # 1 - p; the power has no slope at 0
        class_weights = given.class_weights if self.alpha is None else self.alpha
        weights = given.weights
        if class_weights is not None:
            weights = weights * class_weights.to(logits.dtype)[truth]
        return weighted_mean(-(unsure**self.gamma) * log_p, weights)
