"""A pyramid over the ROI: each layer is merged at the grid that fits its stride."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.types import ShareBelowOne, Size
from roiseg.decoders.base import (
    Context,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    NumClasses,
    doublings,
    grid_size,
)
from roiseg.decoders.layers.convolution import conv_norm_relu
from roiseg.decoders.layers.roi_crop import RoiCrop


class PyramidDecoder(Decoder):
    """Crops each feature layer on the grid that fits its stride, and merges them from coarse to fine.

    The top-down path of a feature pyramid (Lin et al., FPN, 2017) or U-Net (Ronneberger et al., 2015), in
    the ROI's own frame. Layers of `base_stride` and more are cropped to `roi_size` cells, layers of half
    that stride to twice as many, and so on. On the coarsest grid `depth` 3x3 convolutions and a U-shaped
    detour over a grid of half its size see the whole ROI; each further level upsamples (bilinear), halves
    the channels, adds its layers' crops, if it has any, and convolves once.

    Args:
        roi_size: (h, w) cells of the coarsest crop.
        output_size: (h, w) of the logits; `roi_size` times a power of 2.
        base_stride: layers of this stride, or more, are cropped to `roi_size`; the coarsest layer always is.
        mid_channels: width on the coarsest grid.
        min_channels: minimum width of a level.
        depth: number of 3x3 convolutions on the coarsest grid.
        margin: cells of the coarsest grid around the ROI on each side, which are cropped at the end.
        dropout: probability that a channel is dropped, before each level except the last (training only).

    Raises:
        UserError: `output_size` is not `roi_size` doubled.
    """

    provides = ("embeddings",)

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        roi_size: Size = (14, 14),
        output_size: Size = (56, 56),
        base_stride: PositiveInt = 8,
        mid_channels: PositiveInt = 128,
        min_channels: PositiveInt = 32,
        depth: NonNegativeInt = 2,
        margin: NonNegativeInt = 0,
        dropout: ShareBelowOne = 0.0,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        self.roi_size = grid_size(roi_size)
        self.margin = margin
        levels = 1 + doublings(self.roi_size, self.output_size)
        widths = [max(min(min_channels, mid_channels), mid_channels >> level) for level in range(levels)]
        grid = (self.roi_size[0] + 2 * margin, self.roi_size[1] + 2 * margin)
        members: list[list[int]] = [[] for _ in range(levels)]
        base_stride = min(base_stride, max(strides))
        for layer, stride in enumerate(strides):
            members[min(max(0, round(math.log2(base_stride / stride))), levels - 1)].append(layer)
        self.members = members
        self.crops = nn.ModuleList(
            RoiCrop(
                [in_channels[m] for m in some],
                [strides[m] for m in some],
                widths[level],
                (grid[0] << level, grid[1] << level),
                2,
            )
            if some
            else nn.Identity()
            for level, some in enumerate(members)
        )
        width = widths[0]
        self.trunk = nn.Sequential(*(conv_norm_relu(width, width) for _ in range(depth)))
        self.whole = nn.Sequential(conv_norm_relu(width, width), conv_norm_relu(width, width))
        self.join = nn.ModuleList(conv_norm_relu(width, width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(widths))
        self.dropout = nn.Dropout2d(dropout)
        self.predict = nn.Conv2d(widths[-1], num_classes, 1)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`; `embeddings` [R, D, *output_size] are what the last layer sees."""
        windows = self._grown(rois)
        x = self.trunk(self._crop(0, features, windows))
        whole = self.whole(F.avg_pool2d(x, 2, ceil_mode=True))
        x = self.join[0](x + F.interpolate(whole, x.shape[2:], mode="bilinear"))
        for level, (narrow, join) in enumerate(zip(self.narrow, self.join[1:], strict=True), 1):
            x = F.interpolate(narrow(self.dropout(x)), scale_factor=2.0, mode="bilinear")
            if self.members[level]:
                x = x + self._crop(level, features, windows)
            x = join(x)
        cut = self.margin << (len(self.members) - 1)
        if cut:
            x = x[:, :, cut:-cut, cut:-cut]
        return DecoderOutput(self.predict(x), {"embeddings": x})

    def _crop(self, level: int, features: Sequence[Tensor], windows: Tensor) -> Tensor:
        return self.crops[level]([features[m] for m in self.members[level]], windows)

    def _grown(self, rois: Tensor) -> Tensor:
        """Return ROIs [R, 5] enlarged by the margin."""
        if not self.margin:
            return rois
        sides = (rois[:, 3:] - rois[:, 1:3]) * (self.margin / rois.new_tensor(self.roi_size[::-1]))
        return torch.cat([rois[:, :1], rois[:, 1:3] - sides, rois[:, 3:] + sides], dim=1)
