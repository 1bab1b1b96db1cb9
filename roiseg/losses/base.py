"""The interface of every loss term."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from typing_extensions import TypedDict

from roiseg.common.classes import IGNORE, TARGET
from roiseg.common.errors import require_any

# class indices; one that the decoder lacks is left out
Classes = Annotated[Sequence[Literal[0, 1, 2]], Field(min_length=1)]


@dataclass(frozen=True)
class LossInput:
    """The inputs of a loss term."""

    logits: Tensor  # [R, K, h, w]
    target: Tensor  # [R, h, w] int64 class indices; 255 is ignored
    class_weights: Tensor | None = None  # [K] float, or None for equal weights
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # the decoder's named extra outputs
    emphasis: Tensor | None = None  # [R, h, w] weight of each pixel, or None for equal weights

    @property
    def precise_logits(self) -> Tensor:
        """Return the logits in float32; float64 is unchanged."""
        return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))

    @property
    def valid(self) -> Tensor:
        """Return the pixels that are not ignored, bool [R, h, w]."""
        return self.target != IGNORE

    @property
    def weights(self) -> Tensor:
        """Return pixel weights [R, h, w] in the precision of `precise_logits`; 0 where ignored."""
        valid = self.valid.to(self.precise_logits.dtype)
        return valid if self.emphasis is None else valid * self.emphasis

    @property
    def instance_logits(self) -> Tensor:
        """Return the logit of target against all else, [R, h, w]; its sigmoid is the softmax probability."""
        logits = self.precise_logits
        others = torch.cat([logits[:, :TARGET], logits[:, TARGET + 1 :]], dim=1)
        return logits[:, TARGET] - others.logsumexp(dim=1)


class LossTerm(nn.Module, ABC):
    """A scalar measure of how wrong logits are.

    Finite and differentiable also for R = 0 and for targets that are ignored altogether.

    Attributes:
        reads: names of the auxiliary outputs it needs.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar."""


class WeightedTerm(TypedDict, total=False):
    """A term, its weight, and the epoch from which it is used (1 is the first, and the default)."""

    term: LossTerm
    weight: NonNegativeFloat
    from_epoch: PositiveInt


def active_terms(terms: Mapping[str, WeightedTerm], name: str) -> dict[str, WeightedTerm]:
    """Return the terms with a weight above 0, which must not be none; `name` is that of the option."""
    require_any(f"{name}: weights", *(entry["weight"] for entry in terms.values()))
    return {key: entry for key, entry in terms.items() if entry["weight"]}


def class_maps(given: LossInput, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return softmax probability and target (0 or 1) of the chosen classes: two [R, C, h, w].

    A class the decoder lacks is left out.
    """
    present = [c for c in classes if c < given.logits.shape[1]]
    index = torch.tensor(present, dtype=torch.long, device=given.logits.device)
    probability = given.precise_logits.softmax(dim=1)[:, index]
    truth = given.target[:, None] == index[:, None, None]
    return probability, truth.to(probability.dtype)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean of `values` (weights 0 or more), a scalar; 0 if all weights are 0."""
    return (weights * values).sum() / weights.sum().clamp(min=1e-6)


def roi_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average the weighted means of ROIs [R, h, w] over those with a weight above 0; 0 if there are none."""
    mass = weights.sum(dim=(1, 2))
    means = (weights * values).sum(dim=(1, 2)) / mass.clamp(min=1e-6)
    return means.sum() / (mass > 0).sum().clamp(min=1)
