"""The cost of a decoder: parameters, multiply-accumulates, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from roiseg.decoders.base import Context, Decoder

_ROIS, _REPEATS = 8, 5


@dataclass(frozen=True)
class Cost:
    """Cost of a decoder in evaluation.

    Attributes:
        parameters: number of trainable parameters.
        image_macs: multiply-accumulates per image, independent of the number of ROIs.
        roi_macs: multiply-accumulates per additional ROI.
        roi_ms: milliseconds per ROI, median of 5 runs.

    All for 8 ROIs on one image, a third of it high: what a decoder does once per image may depend on how many
    there are, and RoIAlign on a CPU on their size.
    """

    parameters: int
    image_macs: int
    roi_macs: int
    roi_ms: float


def measure_cost(decoder: Decoder, feature_shapes: Sequence[tuple[int, int, int]]) -> Cost:
    """Measure a decoder on its device, with random features and ROIs of one image.

    Counted are matrix products, convolutions and attention (torch's FlopCounterMode, two operations per
    multiply-accumulate); element-wise work is not.

    Args:
        decoder: any decoder; put into evaluation mode.
        feature_shapes: (C, H, W) of each layer.
    """
    decoder.eval()
    device = next(decoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn((1, *shape), generator=generator).to(device) for shape in feature_shapes]
    context = Context(torch.rand(1, 3, *decoder.image_size).to(device), torch.ones(1, device=device))
    macs, more = (_macs(decoder, features, _rois(decoder, n).to(device), context) for n in (_ROIS, _ROIS + 1))
    return Cost(
        parameters=sum(p.numel() for p in decoder.parameters()),
        image_macs=macs - _ROIS * (more - macs),
        roi_macs=more - macs,
        roi_ms=_milliseconds(decoder, features, _rois(decoder, _ROIS).to(device), context) / _ROIS,
    )


def _rois(decoder: Decoder, count: int) -> Tensor:
    """Return ROIs [count, 5] with the shape of a person, a third of the input high, all at the same place."""
    height, width = decoder.image_size
    roi = torch.tensor([[0, 0.4 * width, 0.3 * height, 0.4 * width + width / 6, 0.3 * height + height / 3]])
    return roi.expand(count, 5)


def _macs(decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder(features, rois, context)
    return counter.get_total_flops() // 2


def _milliseconds(decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context) -> float:
    times = []
    with torch.no_grad():
        for _ in range(_REPEATS + 1):  # the first one warms up
            _wait(rois.device)
            start = time.perf_counter()
            decoder(features, rois, context)
            _wait(rois.device)
            times.append(1e3 * (time.perf_counter() - start))
    return median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
