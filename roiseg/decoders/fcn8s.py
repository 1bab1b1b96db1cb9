"""FCN-8s: scores of three feature layers, the coarser upsampled and added to the finer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.errors import UserError
from roiseg.common.types import ShareBelowOne, Size
from roiseg.decoders.base import (
    Context,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    NumClasses,
    grid_size,
    require_multiple,
)
from roiseg.geometry.roi_align import roi_align


class Fcn8sDecoder(Decoder):
    """Sums class scores of three layers whose strides double (Long, Shelhamer, Darrell, FCN, 2015).

    On the coarsest layer fc6 (7x7) and fc7 (1x1), each with ReLU and dropout, then a 1x1 score; the
    scores are doubled by a learned transposed convolution (4x4, stride 2, no bias, bilinear to start
    with) and the 1x1 scores of the middle layer added, doubled so again and those of the finest layer
    added; the remaining upsampling is fixed bilinear interpolation, as in the source.

    Differs from the source: the ROI is given, so RoIAlign crops it out of each layer (28, 14 and 7
    cells) and the network has no other input about it; fc6 keeps the size by zero padding, and maps are
    continued by their border cells for upsampling, where the source pads the image by 100 pixels and
    cuts the scores; fc6 and fc7 have 512 channels (4096); scores start random, not 0; the features are
    frozen. `output_size` [224, 224] gives the source's last factor of 8.

    Args:
        in_channels, strides, image_size, num_classes: see `Decoder`; three layers in any order.
        roi_size: (h, w) cells RoIAlign crops from the finest layer, a half and a quarter of them from
            the others.
        output_size: (h, w) of the logits; a multiple of `roi_size`.
        fc_channels: width of fc6 and fc7.
        dropout: after fc6 and fc7.
        at_once: scale the middle layer by 0.01 and the finest by 0.0001, as the source does where all
            three are trained together.

    Raises:
        UserError: not three layers whose strides double; `roi_size` cannot be halved twice;
            `output_size` is not a multiple of it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        roi_size: Size = (28, 28),
        output_size: Size = (56, 56),
        fc_channels: PositiveInt = 512,
        dropout: ShareBelowOne = 0.5,
        at_once: bool = False,
        sampling_ratio: PositiveInt = 2,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        self.order = _finest_first(strides)
        self.sizes = _sizes(grid_size(roi_size), self.output_size)
        self.scales = (0.0001, 0.01) if at_once else (1.0, 1.0)
        self.sampling_ratio = sampling_ratio
        finest, middle, coarsest = (in_channels[layer] for layer in self.order)
        self.fc = nn.Sequential(
            nn.Conv2d(coarsest, fc_channels, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(fc_channels, fc_channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.score_coarsest = nn.Conv2d(fc_channels, num_classes, 1)
        self.score_middle = nn.Conv2d(middle, num_classes, 1)
        self.score_finest = nn.Conv2d(finest, num_classes, 1)
        self.double_coarsest = BilinearDoubling(num_classes)
        self.double_middle = BilinearDoubling(num_classes)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`. 1x1 scores commute with RoIAlign and are taken before it."""
        finest, middle, coarsest = (features[layer] for layer in self.order)
        maps = [
            self.score_finest(finest * self.scales[0]),
            self.score_middle(middle * self.scales[1]),
            coarsest,
        ]
        finest, middle, coarsest = (
            roi_align(values, rois, size, self.strides[layer], self.sampling_ratio)
            for values, size, layer in zip(maps, self.sizes, self.order, strict=True)
        )
        scores = self.double_coarsest(self.score_coarsest(self.fc(coarsest))) + middle
        scores = self.double_middle(scores) + finest
        if self.output_size != self.sizes[0]:
            scores = F.interpolate(scores, self.output_size, mode="bilinear", align_corners=False)
        return DecoderOutput(scores)


class BilinearDoubling(nn.Module):
    """A learned transposed convolution, 4x4 with stride 2, that starts as bilinear interpolation.

    The map is continued by its border cells, so that at the start it equals `F.interpolate` at the
    border, too.

    Args:
        channels: of the map [N, C, H, W], which becomes [N, C, 2 H, 2 W].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=3, bias=False)
        line = torch.tensor([0.25, 0.75, 0.75, 0.25])
        self.transposed.weight.data = torch.eye(channels)[:, :, None, None] * torch.outer(line, line)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.transposed(F.pad(x, (1, 1, 1, 1), mode="replicate"))


def _finest_first(strides: Sequence[int]) -> list[int]:
    """Return the indices of the layers, finest first."""
    order = sorted(range(len(strides)), key=lambda layer: strides[layer])
    if len(order) != 3 or any(strides[order[n]] != strides[order[0]] << n for n in range(3)):
        raise UserError(
            "model=fcn8s needs three feature layers whose strides double (8, 16, 32), got strides "
            f"({', '.join(map(str, strides))}): set extractor.layers to three such tensors"
        )
    return order


def _sizes(roi_size: tuple[int, int], output_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the cells to crop from the finest, the middle and the coarsest layer."""
    height, width = roi_size
    for side in roi_size:
        require_multiple("each number of model.roi_size, which is halved twice,", side, 4)
    factor = max(1, output_size[0] // height)
    if output_size != (height * factor, width * factor):
        reachable = ", ".join(f"[{height * n}, {width * n}]" for n in (1, 2, 4, 8))
        raise UserError(
            f"model.output_size {list(output_size)} is not a multiple of model.roi_size "
            f"{[height, width]}; choose one of {reachable}, or another roi_size"
        )
    return [(height // n, width // n) for n in (1, 2, 4)]
