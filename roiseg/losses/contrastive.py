"""Contrastive loss between the target's and other pixels' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from roiseg.common.classes import TARGET
from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm, roi_mean

_SMALLEST_NORM = 1e-3  # shorter embeddings are not brought to length 1: their gradient would explode


Negatives = Annotated[Sequence[Literal[0, 2]], Field(min_length=1)]


class Contrastive(LossTerm):
    """Pulls the target's pixels together and pushes others away, in the space of embeddings.

    Reads `embeddings` [R, D, h, w] on the grid of the target, brought to length 1. With mu the direction
    of the mean embedding of a ROI's target pixels and d a pixel's distance to it (0 to 2), a target pixel
    costs max(0, d - pull_margin)^2 and a negative one max(0, push_margin - d)^2. Each of the two is
    averaged over the pixels of a ROI, then over the ROIs that have it: one without negatives only
    pulls, one without target gives nothing. It tells two people of alike features apart.

    With a decoder that has none of the classes `negatives` (two classes and [2]) it is 0: pulling alone
    would be best served by one embedding for all.

    Differs from the source (De Brabandere et al., 2017): pixels are pushed from the target's mean, not the
    means of instances from each other, since only one instance in a ROI has a label of its own;
    embeddings have length 1, in place of a term that keeps them small.

    Args:
        pull_margin: target pixels within this distance are near enough; 0 or more.
        push_margin: negative pixels beyond this distance are far enough; above `pull_margin`, 2 at most;
            1.41 is a right angle.
        negatives: classes to push away: 2, the non-target, and/or 0, the background.

    Raises:
        UserError: margins other than 0 <= pull_margin < push_margin <= 2.
    """

    reads = ("embeddings",)

    def __init__(
        self, pull_margin: float = 0.2, push_margin: float = 1.0, negatives: Negatives = (2,)
    ) -> None:
        super().__init__()
        if not 0 <= pull_margin < push_margin <= 2:
            raise UserError(
                "loss: margins of the contrastive term must keep 0 <= pull_margin < push_margin <= 2, "
                f"got {pull_margin} and {push_margin}"
            )
        self.pull_margin = pull_margin
        self.push_margin = push_margin
        self.negatives = list(negatives)

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where there is nothing to pull or push."""
        embeddings = given.auxiliary["embeddings"]
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        if min(self.negatives) >= given.logits.shape[1]:
            return embeddings[:0].sum()
        directions = F.normalize(embeddings, dim=1, eps=_SMALLEST_NORM)
        positive = given.weights * (given.target == TARGET)
        negative = given.weights * sum(given.target == c for c in self.negatives)
        total = (directions * positive[:, None]).sum(dim=(2, 3), keepdim=True)
        squares = (directions - F.normalize(total, dim=1, eps=_SMALLEST_NORM)).square().sum(dim=1)
        distance = squares.clamp(min=1e-12).sqrt()  # the root has no slope at 0
        has_target = positive.sum(dim=(1, 2), keepdim=True) > 0
        pull = roi_mean((distance - self.pull_margin).relu().square(), positive)
        push = roi_mean((self.push_margin - distance).relu().square(), negative * has_target)
        return pull + push
