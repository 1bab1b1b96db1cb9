"""The loss a run trains with: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from roiseg.common.errors import UserError, require_any
from roiseg.decoders.base import Decoder, DecoderOutput
from roiseg.losses.base import LossInput, LossTerm, WeightedTerm, active_terms


@dataclass(frozen=True)
class RoiEmphasis:
    """The weights of a ROI and of the pixels around it, which only decoders in the image frame have.

    All pixels in the ROI together count `inside`, all others together `outside`, and every ROI the same,
    however small it is: as in the roi frame, where each ROI has the same grid.

    Raises:
        UserError: both weights are 0.
    """

    inside: NonNegativeFloat = 1.0  # weight of the ROI
    outside: NonNegativeFloat = 0.2  # weight of all around it

    def __post_init__(self) -> None:
        require_any("loss.emphasis.inside and loss.emphasis.outside", self.inside, self.outside)

    def __call__(self, inside: Tensor) -> Tensor:
        """Return weights [R, h, w] with mean 1 of cells whose share `inside` [R, h, w] lies in the ROI."""
        cells = inside.shape[1] * inside.shape[2] / (self.inside + self.outside)
        area = inside.sum(dim=(1, 2), keepdim=True)
        rest = (1 - inside).sum(dim=(1, 2), keepdim=True)
        within = self.inside * inside / area.clamp(min=1)
        return cells * (within + self.outside * (1 - inside) / rest.clamp(min=1))


class CompositeLoss(nn.Module):
    """Weighted sum of named terms.

    With `learned` weights each term L counts exp(-s) L + s with a learned s of its own (Kendall et al.,
    Multi-Task Learning Using Uncertainty, 2018, up to a constant factor), times its fixed weight. The best
    s is log L, so that terms come to pull by their relative change; none may fall below 0.

    Args:
        terms: name -> `{"term": LossTerm, "weight": float, "from_epoch": int}`; a weight of 0 switches a
            term off, one with `from_epoch` n counts from the n-th epoch on (1 is the first, and the
            default).
        class_weights: one number per class, handed to every term, or None.
        emphasis: weights of pixels in and around the ROI; None: all count the same.
        learned: learn the weights of the terms.

    Attributes:
        epoch: the current epoch, 1 the first; set by who trains.

    Raises:
        UserError: no term has a weight, or none counts from the first epoch on.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        terms: Mapping[str, WeightedTerm],
        class_weights: Sequence[float] | None = None,
        emphasis: RoiEmphasis | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__()
        active = active_terms(terms, "loss.terms")
        self.all_reads = {name: entry["term"].reads for name, entry in terms.items()}
        self.terms = nn.ModuleDict({name: entry["term"] for name, entry in active.items()})
        self.weights = {name: float(entry["weight"]) for name, entry in active.items()}
        self.starts = {name: entry.get("from_epoch", 1) for name, entry in active.items()}
        if min(self.starts.values()) > 1:
            raise UserError("loss.terms: no term is used in the first epoch; give one from_epoch=1")
        self.emphasis = emphasis
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in active} if learned else {}
        )
        by_class = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", by_class, persistent=False)
        self.epoch = 1

    def check(self, decoder: Decoder) -> None:
        """Check that terms and decoder fit.

        Raises:
            UserError: a term reads a missing output, or no term reads an output that trains the decoder.
        """
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            if missing := [output for output in term.reads if output not in decoder.provides]:
                raise UserError(
                    f"loss.terms.{name} reads the output `{missing[0]}`, which this model does not have "
                    f"(it has {', '.join(decoder.provides) or 'logits only'}): take another model or set "
                    f"loss.terms.{name}.weight=0"
                )
        read = {output for term in self.terms.values() for output in term.reads}  # type: ignore[union-attr]
        if unread := [output for output in decoder.needs if output not in read]:
            terms = " ".join(
                f"loss.terms.{name}.weight=1" for name, reads in self.all_reads.items() if unread[0] in reads
            )
            raise UserError(
                f"this model is trained through its output `{unread[0]}`, which no term of this loss reads: "
                f"use the loss named after the model (loss=sam for model=sam) or add {terms or 'such a term'}"
            )

    def forward(self, output: DecoderOutput, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Measure a decoder's output.

        Args:
            output: logits [R, K, h, w] and what else the decoder gave. A term whose auxiliary output is
                not among it (decoders give some in training only) is left out.
            target: uint8 [R, h, w].

        Returns:
            The weighted sum, and each term's unweighted value by name.
        """
        emphasis = None
        if self.emphasis is not None and output.inside is not None:
            emphasis = self.emphasis(output.inside)
        given = LossInput(output.logits, target.long(), self.class_weights, output.auxiliary, emphasis)
        values = {
            name: term(given)
            for name, term in self.terms.items()
            if self.epoch >= self.starts[name] and set(term.reads) <= output.auxiliary.keys()  # type: ignore[arg-type]
        }
        parts = [self._weighted(name, value) for name, value in values.items()]
        total = torch.stack(parts).sum() if parts else output.logits[:0].sum()
        return total + 0 * sum(self.log_variances.values()), values  # DDP: every parameter gets a gradient

    def _weighted(self, name: str, value: Tensor) -> Tensor:
        if name in self.log_variances:
            value = torch.exp(-self.log_variances[name]) * value + self.log_variances[name]
        return self.weights[name] * value
