"""Building blocks that decoders share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.group_norm import GroupNorm


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, GroupNorm (Wu & He, 2018), ReLU; keeps the size."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        GroupNorm(group_count(out_channels), out_channels),
        nn.ReLU(inplace=True),
    )


def group_count(channels: int) -> int:
    """Number of GroupNorm groups: the largest of 8, 4, 2 and 1 that divides the channels."""
    return math.gcd(8, channels)


class FeatureFusion(nn.Module):
    """Brings several feature layers to one: a 1x1 convolution each, resized bilinearly, summed.

    Args:
        in_channels, strides: of the layers.
        out_channels: of the sum.
        stride: input pixels per cell of the sum; None takes the finest layer's.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], out_channels: int, stride: int | None = None
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.stride = min(strides) if stride is None else stride
        self.reduce = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[B, C_l, H_l, W_l] a layer -> [B, C, H, W] at `stride`."""
        maps = []
        for reduce, feature, stride in zip(self.reduce, features, self.strides, strict=True):
            size = [side * stride // self.stride for side in feature.shape[2:]]
            reduced = reduce(feature)
            if stride != self.stride:
                reduced = F.interpolate(reduced, size, mode="bilinear", align_corners=False)
            maps.append(reduced)
        return sum(maps[1:], maps[0])
