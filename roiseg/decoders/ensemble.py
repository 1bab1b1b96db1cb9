"""Ensemble: the mean of several trained decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.base import Context, Decoder, DecoderOutput, check_part


class EnsembleDecoder(Decoder):
    """Averages the class probabilities of decoders that read the same features.

    Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles,
    2017. The logits are the logarithms of the mean probabilities, on the finest grid of the members. It
    consists of trained decoders, and is not trained itself.

    Args:
        members: decoders of one frame and the same number of classes, one or more.

    Raises:
        UserError: their frames or numbers of classes differ.
    """

    def __init__(self, members: Sequence[Decoder]) -> None:
        first = members[0]
        for number, member in enumerate(members):
            check_part(f"members[{number}]", member, first.frame, first.num_classes, outputs=True)
        size = [max(member.output_size[axis] for member in members) for axis in (0, 1)]
        super().__init__(
            first.in_channels, first.strides, first.image_size, first.num_classes, first.frame, size
        )
        self.prompts = tuple(dict.fromkeys(prompt for member in members for prompt in member.prompts))
        self.members = nn.ModuleList(members)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`."""
        each = []
        for member in self.members:
            logits = member(features, rois, context).logits.float()
            if logits.shape[2:] != self.output_size:
                logits = F.interpolate(logits, self.output_size, mode="bilinear", align_corners=False)
            each.append(logits.log_softmax(dim=1))
        return DecoderOutput(torch.stack(each).logsumexp(dim=0) - math.log(len(each)))
