"""One prediction out of several looks at a ROI: the whole image, its mirror image, close-ups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from roiseg.data.batch import RoiBatch
from roiseg.decoders.base import Decoder

Decode = Callable[[RoiBatch], Tensor]  # a batch with its features -> logits [R, K, h, w]


@dataclass(frozen=True)
class AveragedLogits:
    """What all looks at the ROIs of a batch say together.

    Attributes:
        logits: [R, K, h, w].
        extents: [R, 4] boxes in input pixels that the logits are stretched over.
        roi_grid_logits: [R, K, *size] the same on a grid over each ROI.
    """

    logits: Tensor
    extents: Tensor
    roi_grid_logits: Tensor


def average_views(
    logits: Tensor, batch: RoiBatch, decoder: Decoder, decode: Decode, size: tuple[int, int]
) -> AveragedLogits:
    """Average the class probabilities of all looks a batch brings.

    Args:
        logits: [R, K, h, w] of the whole images, `decode(batch)`.
        batch: whose `mirrored` and `close_ups`, where it has them, are looked at as well.
        decoder: says where its logits lie.
        decode: runs the decoder.
        size: (h, w) of the grid over each ROI of `roi_grid_logits`.

    Returns:
        The logits given where there is one look only, else logarithms of averaged probabilities: in the
        decoder's frame, or on a grid over each ROI (the decoder's own, `size` where it draws on the image)
        where there are close-ups.
    """
    logits = _with_mirror(logits, batch, decode)
    if batch.close_ups is None:
        return AveragedLogits(
            logits, decoder.windows(batch.rois), decoder.roi_logits(logits, batch.rois, size)
        )
    logits = _with_close_ups(logits, batch, batch.close_ups, decoder, decode, size)
    return AveragedLogits(
        logits, batch.rois[:, 1:], F.interpolate(logits, size, mode="bilinear", antialias=True)
    )


def _with_mirror(logits: Tensor, batch: RoiBatch, decode: Decode) -> Tensor:
    if batch.mirrored is None:
        return logits
    seen = logits.float(), decode(batch.mirrored).flip(-1).float()
    first, second = (view.log_softmax(dim=1) for view in seen)
    return torch.logaddexp(first, second) - math.log(2)


def _with_close_ups(
    logits: Tensor,
    batch: RoiBatch,
    close_ups: RoiBatch,
    decoder: Decoder,
    decode: Decode,
    size: tuple[int, int],
) -> Tensor:
    """Over the whole image and all close-ups of a ROI, on a grid over it."""
    grid = decoder.output_size if decoder.frame == "roi" else size
    closer = _with_mirror(decode(close_ups), close_ups, decode)
    one, more = (
        decoder.roi_logits(look.float(), seen.rois, grid).softmax(dim=1)
        for look, seen in ((logits, batch), (closer, close_ups))
    )
    count = torch.bincount(close_ups.rows, minlength=len(one))[:, None, None, None] + 1
    return (one.index_add(0, close_ups.rows, more) / count).clamp(min=1e-12).log()
