"""Pixel-wise cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm


class CrossEntropy(LossTerm):
    """Mean cross-entropy over the pixels that count, class weights applied.

    With class weights w and emphasis e the mean is sum(e w[y] ce) / sum(e w[y]), as in torch; 0 where the
    sum of weights is.

    Args:
        label_smoothing: share of the target spread over all classes (Szegedy et al., 2016).

    Raises:
        UserError: `label_smoothing` is not within 0..1.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"loss: label_smoothing of the ce term must be at least 0 and below 1, got {label_smoothing}"
            )
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
