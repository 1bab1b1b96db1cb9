"""A stand-in for the mask head of PINTO0309/human-instance-segmentation, to measure against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.base import Context, Decoder, DecoderOutput
from roiseg.geometry.roi_align import roi_align

WIDTH = 256


class ReferenceHead(Decoder):
    """28x28 crops, residual blocks at 28 and 56, a stage at 112, joined again at 56.

    As in that project's code (reimplemented): RoIAlign with 4 samples per axis on all
    channels, a 1x1 convolution to 256 channels, two residual blocks, a 4x4 transposed convolution to
    56x56, a residual block, another one to 112x112 and 128 channels, two 3x3 convolutions and one to 64
    channels, which go back to 56x56 (bilinear) and join the map there; two 1x1 convolutions give the
    logits. Norms go over all channels and cells of a ROI. With 128 feature channels it has 5.6 M
    parameters, with 1024 it has 5.8 M.

    Args:
        in_channels, strides, image_size, num_classes: see `Decoder`; one layer.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: int = 3,
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", (56, 56))
        (channels,) = in_channels
        half, quarter = WIDTH // 2, WIDTH // 4
        self.enter = _normed(nn.Conv2d(channels, WIDTH, 1))
        self.blocks = nn.Sequential(Residual(WIDTH), Residual(WIDTH))
        self.to_56 = nn.Sequential(_normed(_doubling(WIDTH, WIDTH)), Residual(WIDTH))
        self.to_112 = nn.Sequential(
            _normed(_doubling(WIDTH, half)),
            _normed(nn.Conv2d(half, half, 3, padding=1)),
            _normed(nn.Conv2d(half, half, 3, padding=1)),
            _normed(nn.Conv2d(half, quarter, 3, padding=1)),
        )
        self.fuse = nn.Conv2d(WIDTH + quarter, half, 1)
        self.predict = nn.Conv2d(half, num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`."""
        crops = roi_align(features[0], rois, (28, 28), self.strides[0], sampling_ratio=4)
        middle = self.to_56(self.blocks(self.enter(crops)))
        fine = F.interpolate(self.to_112(middle), (56, 56), mode="bilinear", align_corners=False)
        return DecoderOutput(self.predict(self.fuse(torch.cat([middle, fine], dim=1))))


class Residual(nn.Module):
    """Two normalized 3x3 convolutions with a skip connection, ReLU after each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _normed(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, C, h, w]."""
        return F.relu(self.norm(self.second(self.first(x))) + x)


def _doubling(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.GroupNorm(1, layer.out_channels), nn.ReLU(inplace=True))
