"""One vector per ROI, read from a feature map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from roiseg.decoders.base import grid_size
from roiseg.decoders.layers.convolution import conv_norm_relu
from roiseg.geometry.roi_align import roi_align


class RoiVector(nn.Module):
    """RoIAlign, 3x3 convolutions with GroupNorm and ReLU on the crop, mean over its cells.

    Args:
        channels: of the feature map, and of the vector.
        roi_size: (h, w) cells RoIAlign crops.
        depth: number of convolutions.
    """

    def __init__(self, channels: int, roi_size: Sequence[int], depth: int) -> None:
        super().__init__()
        self.roi_size = grid_size(roi_size)
        self.tower = nn.Sequential(*(conv_norm_relu(channels, channels) for _ in range(depth)))

    def forward(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        """Pool each ROI: [B, C, H, W] of `stride`, ROIs [R, 5] (see `roi_align`) -> [R, C]."""
        return self.tower(roi_align(features, rois, self.roi_size, stride)).mean(dim=(2, 3))
