"""Losses of decoders that predict several masks per ROI and score each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from roiseg.common.classes import TARGET
from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput, LossTerm, WeightedTerm, active_terms


class MultimaskMinimum(LossTerm):
    """A sum of terms on the best candidate of each ROI; the others get no gradient.

    Which one is the best is asked ROI by ROI, each as if it were alone: the candidate of the smallest
    weighted sum. The terms are then measured on the chosen candidates all together. The minimum is that of
    multiple choice learning (Guzman-Rivera et al., 2012); Segment Anything (Kirillov et al., 2023) takes it
    of focal 20 : Dice 1.

    Differs from the source: K-class terms instead of sigmoid ones.

    It reads `candidates`, logits [R, M, K, h, w] on the target's grid.

    Args:
        terms: name -> `{"term": LossTerm, "weight": float}`; a weight of 0 switches a term off.

    Raises:
        UserError: no term has a weight, a setting it does not know, or a term that reads more than logits.
    """

    reads = ("candidates",)

    def __init__(self, terms: Mapping[str, WeightedTerm]) -> None:
        super().__init__()
        for name, entry in terms.items():
            if set(entry) != {"weight", "term"}:
                raise UserError(
                    f"loss: {name} of the candidates term must have weight and term and nothing else, "
                    f"got {', '.join(entry)}"
                )
            if reads := entry["term"].reads:
                raise UserError(
                    f"loss: {name} of the candidates term reads `{reads[0]}`, candidates have logits only: "
                    "take another term, or move it to loss.terms"
                )
        active = active_terms(terms, "loss: terms of the candidates term")
        self.terms = nn.ModuleDict({name: entry["term"] for name, entry in active.items()})
        self.weights = {name: float(entry["weight"]) for name, entry in active.items()}

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 for R = 0."""
        candidates = given.auxiliary["candidates"]
        if not len(candidates):
            return candidates.sum()
        best = self.costs(given).argmin(dim=1)[:, None, None, None, None]
        chosen = candidates.gather(1, best.expand(-1, 1, *candidates.shape[2:]))[:, 0]
        predicted = replace(given, logits=chosen, auxiliary={})
        return torch.stack([self.weights[name] * term(predicted) for name, term in self.terms.items()]).sum()

    @torch.no_grad()
    def costs(self, given: LossInput) -> Tensor:
        """Return the weighted sum of the terms for each candidate of each ROI: [R, M]; R above 0.

        Raises:
            UserError: a term leaves torch on its way and cannot be measured on all of them at once.
        """

        def cost(name: str, logits: Tensor, target: Tensor, emphasis: Tensor | None) -> Tensor:
            weights = None if emphasis is None else emphasis[None]
            alone = LossInput(logits[None], target[None], given.class_weights, emphasis=weights)
            return self.weights[name] * self.terms[name](alone)

        costs = []
        for name in self.terms:
            of_roi = torch.vmap(partial(cost, name), in_dims=(0, None, None))
            of_all = torch.vmap(of_roi, in_dims=(0, 0, None if given.emphasis is None else 0))
            try:
                costs.append(of_all(given.auxiliary["candidates"], given.target, given.emphasis))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise UserError(
                    f"loss: {name} of the candidates term cannot be measured on single candidates "
                    f"({' '.join(str(error).split())[:100]}): take another term, or move it to loss.terms"
                ) from error
        return torch.stack(costs).sum(dim=0)


class IouScore(LossTerm):
    """Error of the predicted IoU of each candidate, mean over candidates and ROIs.

    The true IoU is that of the pixels labelled target with those that are, each counting its weight; 0 where
    there are neither. It is what the score has to learn, so no gradient flows through it. A ROI in which no
    pixel counts is left out.

    It reads `candidates`, logits [R, M, K, h, w] on the target's grid, and `iou` [R, M].

    Args:
        squared: the square of the difference, as in Segment Anything (Kirillov et al., 2023); else its
            absolute value, as in SAM 2 (Ravi et al., 2024).
    """

    reads = ("candidates", "iou")

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.squared = squared

    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar; 0 where no pixel counts."""
        score = given.auxiliary["iou"]
        score = score.to(torch.promote_types(score.dtype, torch.float32))
        difference = score - mask_iou(given, given.auxiliary["candidates"]).to(score.dtype)
        error = difference.square() if self.squared else difference.abs()
        counts = given.weights.sum(dim=(1, 2)) > 0
        return (error.mean(dim=1) * counts).sum() / counts.sum().clamp(min=1)


@torch.no_grad()
def mask_iou(given: LossInput, candidates: Tensor) -> Tensor:
    """Return the IoU [R, M] of the target in candidates [R, M, K, h, w] with the ground truth; 0 if empty."""
    weights = given.weights[:, None]
    predicted = candidates.argmax(dim=2) == TARGET
    truth = (given.target == TARGET)[:, None]
    overlap = (weights * (predicted & truth)).sum(dim=(2, 3))
    union = (weights * (predicted | truth)).sum(dim=(2, 3))
    return overlap / union.clamp(min=1e-6)
