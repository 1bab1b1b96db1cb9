"""The loss a run trains with: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roiseg.common.errors import UserError
from roiseg.decoders.base import DecoderOutput
from roiseg.losses.base import LossInput


class CompositeLoss(nn.Module):
    """Weighted sum of named terms.

    Args:
        terms: name -> `{"term": LossTerm, "weight": float}`; a weight of 0 switches a term off.
        class_weights: one number a class, handed to every term, or None.

    Raises:
        UserError: no term has a weight.
    """

    class_weights: Tensor | None

    def __init__(
        self, terms: Mapping[str, Mapping[str, Any]], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        active = {name: entry for name, entry in terms.items() if entry["weight"]}
        if not active:
            raise UserError("loss.terms: every term has weight 0; give one a weight")
        self.terms = nn.ModuleDict({name: entry["term"] for name, entry in active.items()})
        self.weights = {name: float(entry["weight"]) for name, entry in active.items()}
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, output: DecoderOutput, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Measure a decoder's output.

        Args:
            output: logits [R, K, h, w] and what else the decoder gave.
            target: uint8 [R, h, w].

        Returns:
            The weighted sum, and each term's unweighted value by name.
        """
        classes = output.logits.shape[1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise UserError(
                f"loss.class_weights has {len(self.class_weights)} numbers, the decoder {classes} classes"
            )
        given = LossInput(output.logits, target.long(), self.class_weights, output.auxiliary)
        values = {name: term(given) for name, term in self.terms.items()}
        total = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return total, values
