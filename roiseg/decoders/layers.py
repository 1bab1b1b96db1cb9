"""Building blocks that decoders share."""

from __future__ import annotations

import math

from torch import nn


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, GroupNorm (Wu & He, 2018), ReLU; keeps the size."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(group_count(out_channels), out_channels),
        nn.ReLU(inplace=True),
    )


def group_count(channels: int) -> int:
    """Number of GroupNorm groups: the largest of 8, 4, 2 and 1 that divides the channels."""
    return math.gcd(8, channels)
