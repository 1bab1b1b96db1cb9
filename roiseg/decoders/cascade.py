"""Cascade: one decoder's probabilities are another decoder's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.errors import UserError
from roiseg.decoders.base import Context, Decoder, DecoderOptions, DecoderOutput, NumClasses, check_part


class CascadeDecoder(Decoder):
    """Two decoders in sequence; the second reads the class probabilities of the first (its `prior`).

    The idea of cascades (Cai & Vasconcelos, Cascade R-CNN, 2018; its masks in Hybrid Task Cascade, Chen
    et al., 2019), but without refining the boxes. Both are trained together, gradients flow through the
    probabilities, and the output `first` allows a loss term to supervise the first decoder.

    Args:
        first: makes the first decoder of (in_channels, strides, image_size).
        second: makes the second one, whose option `prior` must be on.
        **shared: see `DecoderOptions`; applied to both together.

    Raises:
        UserError: the decoders do not fit each other.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        first: Callable[..., Decoder],
        second: Callable[..., Decoder],
        num_classes: NumClasses = 3,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        facts = {"in_channels": in_channels, "strides": strides, "image_size": image_size}
        one, two = first(**facts), second(**facts)
        if "prior" not in two.prompts:
            raise UserError("model.second does not read the first decoder: set model.second.prior=true")
        check_part("first", one, two.frame, num_classes)
        check_part("second", two, two.frame, num_classes, outputs=True)
        super().__init__(in_channels, strides, image_size, num_classes, two.frame, two.output_size, **shared)
        self.provides = (*two.provides, "first")
        self.needs = (*two.needs, "first")
        self.prompts = tuple(prompt for prompt in two.prompts if prompt != "prior")
        self.first = one
        self.second = two

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`; `first` [R, K, *output_size] are the first decoder's logits."""
        early = self.first(features, rois, context).logits
        prior = early.float().softmax(dim=1).to(early.dtype)
        output = self.second(features, rois, replace(context, prior=prior))
        if early.shape[2:] != output.logits.shape[2:]:
            early = F.interpolate(early, self.output_size, mode="bilinear", align_corners=False)
        return DecoderOutput(output.logits, {**output.auxiliary, "first": early})
