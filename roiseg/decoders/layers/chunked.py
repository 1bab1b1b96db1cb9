"""Decode in chunks: the decoder processes a bounded number of ROIs at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from roiseg.decoders.base import Context, Decoder, DecoderOutput


def decode_in_chunks(
    decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context, max_rois: int
) -> DecoderOutput:
    """Return `decoder(features, rois, context)`, with the memory of `max_rois` ROIs plus the output's.

    Losses and metrics read the whole output, so that no mean changes. If gradients are needed, each chunk
    is decoded again in the backward pass (Chen et al., Training Deep Nets with Sublinear Memory Cost,
    2016), with the same random numbers and therefore the same gradients. Only a decoder's random values
    (dropout, PointRend's training points) are sampled chunk by chunk.

    Args:
        decoder: works ROI by ROI, and so does each of its auxiliary outputs.
        features: [B, C_l, H_l, W_l] per layer.
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.
        context: see `Context`.
        max_rois: 1 or more.
    """
    if len(rois) <= max_rois:
        return decoder(features, rois, context)
    parts = []
    for start in range(0, len(rois), max_rois):
        given = _part(features, rois, context, slice(start, start + max_rois))
        wanted = torch.is_grad_enabled()
        parts.append(checkpoint(decoder, *given, use_reentrant=False) if wanted else decoder(*given))
    return _joined(parts)


def _part(
    features: Sequence[Tensor], rois: Tensor, context: Context, rows: slice
) -> tuple[tuple[Tensor, ...], Tensor, Context]:
    """Select ROIs and their images, because decoders compute on every image of the batch."""
    rois = rois[rows]
    first, last = int(rois[0, 0]), int(rois[-1, 0])
    images = slice(first, last + 1)
    moved = torch.cat([rois[:, :1] - first, rois[:, 1:]], dim=1)
    kept = {"image": images, "pixel_size": images, "prior": rows, "points": rows}
    told = {name: getattr(context, name) for name in kept}
    context = Context(**{name: None if value is None else value[kept[name]] for name, value in told.items()})
    return tuple(feature[images] for feature in features), moved, context


def _joined(parts: Sequence[DecoderOutput]) -> DecoderOutput:
    auxiliary = {name: torch.cat([part.auxiliary[name] for part in parts]) for name in parts[0].auxiliary}
    inside = [part.inside for part in parts if part.inside is not None]
    return DecoderOutput(
        torch.cat([part.logits for part in parts]), auxiliary, torch.cat(inside) if inside else None
    )
