"""The network that becomes the embedded extractor: a person detector of about 0.2 million parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

IMAGE_SIZE = 256  # input height and width, pixels
CHANNELS = 48  # of features_s4 and features_s8
STRIDE = 8  # input pixels per cell of the detection output


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        return F.relu(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Merge the batch norm's statistics into the convolution (evaluation mode only)."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class Residual(nn.Module):
    """x + two convolutions, the first through `middle` channels."""

    def __init__(self, channels: int, middle: int, first_kernel: int = 3) -> None:
        super().__init__()
        self.first = ConvUnit(channels, middle, first_kernel)
        self.second = ConvUnit(middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x + self.second(self.first(x))


class TinyPersonNet(nn.Module):
    """Backbone to stride 32, top-down path to stride 4, back up to stride 8, one anchor-free head.

    The input is RGB in 0..1, `[B, 3, 256, 256]`. `forward` returns, in this order,

    - the detections `[B, 1024, 6]`: dx, dy, log w, log h, objectness, person score, one row for each
      cell of the 32 x 32 grid in raster order. Centre = (d + cell) * 8 and size = exp(.) * 8 in
      input pixels; the last two are probabilities and the score of a box is their product;
    - `features_s4` `[B, 48, 64, 64]` and `features_s8` `[B, 48, 32, 32]`, which the detections pass through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 16, stride=2)
        self.stage4 = nn.Sequential(ConvUnit(16, 32, stride=2), Residual(32, 32))
        self.stage8 = nn.Sequential(ConvUnit(32, 48, stride=2), Residual(48, 32))
        self.stage16 = nn.Sequential(ConvUnit(48, 64, stride=2), Residual(64, 24, 1), Residual(64, 24, 1))
        self.stage32 = nn.Sequential(nn.MaxPool2d(2), Residual(64, 24, 1))
        self.top = ConvUnit(128, CHANNELS, 1)
        self.down8 = ConvUnit(2 * CHANNELS, CHANNELS, 1)
        self.down4 = nn.Sequential(ConvUnit(CHANNELS + 32, CHANNELS, 1), ConvUnit(CHANNELS, CHANNELS))
        self.up8 = ConvUnit(CHANNELS, CHANNELS, stride=2)
        self.join8 = ConvUnit(2 * CHANNELS, CHANNELS, 1)
        self.head = nn.Sequential(ConvUnit(CHANNELS, 32), nn.Conv2d(32, 6, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        with torch.no_grad():  # begin with rare persons of 20 x 60 pixels
            last.bias.copy_(torch.tensor([0.5, 0.5, 0.9, 2.0, -4.6, 0.0]))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> (features_s4, features_s8)."""
        s4 = self.stage4(self.stem(images))
        s8 = self.stage8(s4)
        s16 = self.stage16(s8)
        s32 = self.stage32(s16)
        top = self.top(torch.cat([s16, _double(s32)], 1))
        middle = self.down8(torch.cat([s8, _double(top)], 1))
        features_s4 = self.down4(torch.cat([s4, _double(middle)], 1))
        features_s8 = self.join8(torch.cat([self.up8(features_s4), middle], 1))
        return features_s4, features_s8

    def raw(self, features_s8: Tensor) -> Tensor:
        """Detections before the sigmoid, `[B, cells, 6]`."""
        return self.head(features_s8).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (detections, features_s4, features_s8); see the class."""
        features_s4, features_s8 = self.features(images)
        raw = self.raw(features_s8)
        return torch.cat([raw[..., :4], raw[..., 4:].sigmoid()], 2), features_s4, features_s8

    def fold_batch_norms(self) -> TinyPersonNet:
        """Merge all batch norms into their convolutions; the network must be in evaluation mode."""
        for module in list(self.modules()):
            if isinstance(module, ConvUnit):
                module.fold()
        return self


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
