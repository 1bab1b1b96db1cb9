"""The interface every loss term keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from roiseg.common.classes import IGNORE


@dataclass(frozen=True)
class LossInput:
    """What a loss term may read.

    Attributes:
        logits: [R, K, h, w].
        target: [R, h, w] int64 class indices; 255 is ignored.
        class_weights: [K] float, or None for equal weights.
        auxiliary: the decoder's named extra outputs.
    """

    logits: Tensor
    target: Tensor
    class_weights: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)

    @property
    def precise_logits(self) -> Tensor:
        """The logits in float32, or in float64 where they are."""
        return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))

    @property
    def valid(self) -> Tensor:
        """[R, h, w] bool: pixels that count."""
        return self.target != IGNORE


class LossTerm(nn.Module, ABC):
    """A scalar measure of how wrong logits are.

    Finite and differentiable also for R = 0 and for targets that are ignored altogether.
    """

    @abstractmethod
    def forward(self, given: LossInput) -> Tensor:
        """Return a scalar."""
