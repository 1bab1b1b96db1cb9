"""Lovász-Softmax loss."""

from __future__ import annotations

import torch
from torch import Tensor

from roiseg.losses.base import Classes, LossInput, LossTerm, class_maps


class LovaszSoftmax(LossTerm):
    """Lovász extension of 1 - IoU, mean over ROIs and the chosen classes they show (Berman et al., 2018).

    A pixel's error for a class is |truth - probability|. Going through the pixels from the largest error
    down, each counts its error times what 1 - IoU would grow by if it, too, were predicted wrongly. For
    probabilities of 0 and 1 that sum is 1 - IoU itself.

    A class that a ROI does not show costs nothing there: its IoU is 0 whatever is predicted. A pixel of
    emphasis 0 is left out as an ignored one is; all others count the same, since IoU counts pixels.

    Differs from the source: an IoU per ROI instead of per image or batch.

    Args:
        classes: class indices; 1 (the target) by default. A class the decoder lacks is left out.
    """

    def __init__(self, classes: Classes = (1,)) -> None:
        super().__init__()
        self.classes = list(classes)

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no chosen class shows."""
        probability, truth = class_maps(given, self.classes)
        counts = (given.weights > 0)[:, None]
        truth = (truth * counts).flatten(2)
        errors = (truth - (probability * counts).flatten(2)).abs()  # 0 where a pixel does not count
        losses = (errors * _growth(errors.detach(), truth.bool())).sum(dim=2)
        shown = truth.any(dim=2)
        return (losses * shown).sum() / shown.sum().clamp(min=1)


def _growth(errors: Tensor, truth: Tensor) -> Tensor:
    """Return the increase of 1 - IoU by each pixel, given that those with larger errors are wrong.

    Pixels that do not count have error 0 and so come last, where they change nothing.

    Args:
        errors: [R, C, pixels].
        truth: [R, C, pixels] bool, of the class.

    Returns:
        [R, C, pixels].
    """
    order = errors.argsort(dim=2, descending=True)
    truth = truth.gather(2, order)
    size = truth.sum(dim=2, keepdim=True)
    intersection = size - truth.cumsum(dim=2)  # whole numbers
    union = size + (~truth).cumsum(dim=2)
    jaccard_loss = 1 - intersection / union.to(errors.dtype)
    growth = jaccard_loss.diff(dim=2, prepend=torch.zeros_like(jaccard_loss[:, :, :1]))
    return torch.zeros_like(errors).scatter(2, order, growth)
