"""GroupNorm with a faster backward pass on CPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_WIDE = 16  # channels per group from which torch's own kernel is fast


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm (Wu & He, 2018), with the same parameters and values.

    Torch's gradient of channels-last bfloat16 maps on a CPU goes through a group's channels one by one,
    which is 4 to 6 times slower if they are few; here sums over a map are matrix products.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [N, C, H, W]."""
        slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if not slow or x.dim() != 4 or self.num_channels >= _WIDE * self.num_groups or not x.requires_grad:
            return super().forward(x)
        normed: Tensor = _Normalize.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return normed


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        count, channels, height, width = x.shape
        normed, mean, rstd = torch.native_group_norm(
            x, weight, bias, count, channels, height * width, groups, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        count, channels, height, width = x.shape
        groups = mean.shape[1]
        mean, rstd = mean.float()[..., None], rstd.float()[..., None]  # [N, groups, 1]
        scale = weight.float().view(groups, -1)

        def total(maps: Tensor) -> Tensor:
            """Sum over each map: [N, C, H, W] -> [N, groups, C / groups]."""
            cells = maps.permute(0, 2, 3, 1).flatten(1, 2)
            sums = cells.new_ones(count, 1, height * width) @ cells
            return sums.float().view(count, groups, channels // groups)

        def channelwise(values: Tensor) -> Tensor:
            return values.expand(-1, -1, channels // groups).reshape(count, channels, 1, 1).to(x.dtype)

        of_bias = total(grad)
        of_weight = (total(grad * x) - mean * of_bias) * rstd
        numbers = height * width * channels // groups
        along = -(scale * of_weight).sum(2, keepdim=True) / numbers * rstd.square()
        shift = -(scale * of_bias).sum(2, keepdim=True) / numbers * rstd - along * mean
        of_x = torch.addcmul(channelwise(shift), x, channelwise(along)).addcmul_(
            grad, channelwise(scale * rstd)
        )
        return of_x, of_weight.sum(0).flatten(), of_bias.sum(0).flatten(), None, None


def conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 3x3 convolution, GroupNorm (Wu & He, 2018) and ReLU; the size does not change."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        GroupNorm(group_count(out_channels), out_channels),
        nn.ReLU(inplace=True),
    )


def group_count(channels: int) -> int:
    """Return the number of GroupNorm groups: the largest of 8, 4, 2 and 1 that divides the channels."""
    return math.gcd(8, channels)


class FeatureFusion(nn.Module):
    """Fuses feature layers: the sum of a 1x1 convolution of each, resized bilinearly.

    Args:
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
        """Fuse the layers: [B, C_l, H_l, W_l] per layer -> [B, C, H, W] at `stride`."""
        maps = []
        for reduce, feature, stride in zip(self.reduce, features, self.strides, strict=True):
            size = [side * stride // self.stride for side in feature.shape[2:]]
            reduced = reduce(feature)
            if stride != self.stride:
                reduced = F.interpolate(reduced, size, mode="bilinear", align_corners=False)
            maps.append(reduced)
        return sum(maps[1:], maps[0])


Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def msra_init(layer: Layer) -> None:
    """Initialize for ReLU with normal weights, variance 2 / outputs (He et al., 2015), zero biases."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    _zero_bias(layer)


def xavier_init(layer: Layer) -> None:
    """Initialize with uniform weights, variance 1 / inputs (after Glorot & Bengio, 2010), zero biases."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    _zero_bias(layer)


def predictor_init(layer: Layer) -> None:
    """Initialize with normal weights of standard deviation 0.001, zero biases: logits start near 0."""
    nn.init.normal_(layer.weight, std=0.001)
    _zero_bias(layer)


def _zero_bias(layer: Layer) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
