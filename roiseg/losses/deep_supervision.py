"""Supervision of an earlier stage of a decoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from roiseg.geometry.roi_align import point_sample
from roiseg.losses.base import LossInput, LossTerm


class DeepSupervision(LossTerm):
    """Another term, measured on the logits of a cascade's first decoder."""

    reads = ("first",)

    def __init__(self, term: LossTerm) -> None:
        super().__init__()
        self.term = term

    def forward(self, given: LossInput) -> Tensor:
        """Return the term's scalar."""
        return self.term(replace(given, logits=given.auxiliary["first"]))


class PointCrossEntropy(LossTerm):
    """Mean cross-entropy at the points a decoder chose (Kirillov et al., PointRend, CVPR 2020).

    The label of a point is the bilinear mixture of the target's cells around it. With share s[k] of
    class k at a point and class weights w the mean is sum(s[k] w[k] ce[k]) / sum(s[k] w[k]); cells that
    are ignored have no share, 0 where all are.

    It reads `points`, logits [R, K, P], and `point_coords`, their x, y [R, P, 2] with 0..1 over the grid
    of the target.
    """

    reads = ("points", "point_coords")

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 for R = 0."""
        logits = given.auxiliary["points"]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        shares = _shares(given, given.auxiliary["point_coords"], logits.shape[1]).to(logits.dtype)
        if given.class_weights is not None:
            shares = shares * given.class_weights.to(logits.dtype)[:, None]
        total = -(shares * logits.log_softmax(dim=1)).sum()
        mass = shares.sum()
        return torch.where(mass > 0, total, total * 0) / mass.clamp(min=1e-6)


def _shares(given: LossInput, coords: Tensor, classes: int) -> Tensor:
    """Return the share of each class at each point: [R, K, P]."""
    index = torch.arange(classes, device=given.target.device)[:, None, None]
    truth = (given.target[:, None] == index) * given.weights[:, None]
    height, width = given.target.shape[1:]
    cells = coords * coords.new_tensor([width, height])
    owners = torch.arange(len(coords), device=coords.device)
    return point_sample(truth, cells, owners).transpose(1, 2)
