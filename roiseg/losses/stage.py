"""Supervision of an earlier stage of a decoder."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from roiseg.losses.base import LossInput, LossTerm


class FirstStage(LossTerm):
    """Another term, measured on the logits of a cascade's first decoder.

    Args:
        term: what to measure there.
    """

    reads = ("first",)

    def __init__(self, term: LossTerm) -> None:
        super().__init__()
        self.term = term

    def forward(self, given: LossInput) -> Tensor:
        """Return the term's scalar."""
        return self.term(replace(given, logits=given.auxiliary["first"]))
