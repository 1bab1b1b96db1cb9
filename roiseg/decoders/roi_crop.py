"""RoIAlign over several feature layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from roiseg.decoders.initial import xavier_init
from roiseg.geometry.roi_align import roi_align


class RoiCrop(nn.Module):
    """Crops ROIs out of several layers: a lateral 1x1 convolution each, RoIAlign, summed.

    Stands for the levels of a feature pyramid (Lin et al., FPN, 2017), whose lateral convolutions and
    their initialisation it has. The convolution runs once an image, not once a ROI.

    Args:
        in_channels, strides: of the layers.
        out_channels: of the crops.
        size: (h, w) cells of the crops.
        sampling_ratio: RoIAlign samples per cell and axis.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        size: tuple[int, int],
        sampling_ratio: int,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.size = size
        self.sampling_ratio = sampling_ratio
        laterals = [nn.Conv2d(channels, out_channels, 1) for channels in in_channels]
        for lateral in laterals:
            xavier_init(lateral)
        self.lateral = nn.ModuleList(laterals)

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """[B, C_l, H_l, W_l] a layer, ROIs [R, 5] in input pixels -> [R, C, *size]."""
        crops = [
            roi_align(lateral(feature), rois, self.size, stride, self.sampling_ratio)
            for lateral, feature, stride in zip(self.lateral, features, self.strides, strict=True)
        ]
        return sum(crops[1:], crops[0])
