"""Averaging over the views of test-time augmentation: one prediction per ROI."""

from __future__ import annotations

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
    """The average over all views of the ROIs of a batch.

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
    """Average the class probabilities of the whole image and of all views of a batch.

    Args:
        logits: [R, K, h, w] of the whole images, `decode(batch)`.
        batch: its `views`, if any, are decoded as well.
        decoder: defines the extents of its logits.
        decode: runs the decoder.
        size: (h, w) of the grid over each ROI of `roi_grid_logits`.

    Returns:
        The logits given without views, else logarithms of averaged probabilities: in the decoder's frame, or
        on a grid over each ROI (the decoder's own, `size` where it draws on the image) where some views are
        crops.
    """
    if all(view.parent_roi is None for view in batch.views):
        if batch.views:
            flipped = [_unflipped(decode(view), view) for view in batch.views]
            each = [values.float().log_softmax(dim=1) for values in (logits, *flipped)]
            logits = torch.stack(each).logsumexp(dim=0) - torch.log(torch.tensor(float(len(each))))
        return AveragedLogits(
            logits, decoder.extents(batch.rois), decoder.roi_logits(logits, batch.rois, size)
        )
    logits = _on_rois(logits, batch, decoder, decode, decoder.output_size if decoder.frame == "roi" else size)
    return AveragedLogits(
        logits, batch.rois[:, 1:], F.interpolate(logits, size, mode="bilinear", antialias=True)
    )


def _on_rois(
    logits: Tensor, batch: RoiBatch, decoder: Decoder, decode: Decode, grid: tuple[int, int]
) -> Tensor:
    """Average over views of which each shows some of the ROIs, on a grid over each ROI."""
    total = decoder.roi_logits(logits.float(), batch.rois, grid).softmax(dim=1)
    count = torch.ones(len(total), device=total.device)
    for view in batch.views:
        seen = torch.arange(len(total), device=total.device) if view.parent_roi is None else view.parent_roi
        values = decoder.roi_logits(decode(view).float(), view.rois, grid)
        total = total.index_add(0, seen, _unflipped(values, view).softmax(dim=1))
        count = count.index_add(0, seen, torch.ones_like(seen, dtype=count.dtype))
    return (total / count[:, None, None, None]).clamp(min=1e-12).log()


def _unflipped(values: Tensor, view: RoiBatch) -> Tensor:
    return values.flip(-1) if view.hflipped else values
