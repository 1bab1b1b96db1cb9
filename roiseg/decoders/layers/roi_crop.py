"""RoIAlign over several feature layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.layers.convolution import xavier_init
from roiseg.geometry.roi_align import crop_rois, roi_weights

EXPORTED_ROIS = 4  # ROIs per image for which exported files are optimized: COCO's images have 4.1 persons


class RoiCrop(nn.Module):
    """Crops ROIs out of several layers: a lateral 1x1 convolution each, RoIAlign, summed.

    Replaces the levels of a feature pyramid (Lin et al., FPN, 2017), with the same lateral convolutions and
    initialization. A 1x1 convolution and RoIAlign commute: each layer uses the order that needs fewer
    multiply-accumulates (`order_macs`).

    Args:
        out_channels: of the crops.
        size: (h, w) cells of the crops.
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
        """Crop the ROIs: [B, C_l, H_l, W_l] per layer, ROIs [R, 5] in input pixels -> [R, C, *size]."""
        crops: list[Tensor] = []
        for lateral, feature, stride in zip(self.lateral, features, self.strides, strict=True):
            assert isinstance(lateral, nn.Conv2d)
            size = (feature.shape[2], feature.shape[3])
            weights = roi_weights(rois, size, self.size, stride, self.sampling_ratio)
            order = reduce_then_crop if _reduce_first(lateral, feature, rois, self.size) else crop_then_reduce
            crops.append(order(lateral, feature, rois, *weights))
        return sum(crops[1:], crops[0])


def reduce_then_crop(
    lateral: nn.Conv2d, feature: Tensor, rois: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Apply the convolution once per image, then RoIAlign by its `roi_weights`."""
    return crop_rois(lateral(feature), rois, rows, columns)


def crop_then_reduce(
    lateral: nn.Conv2d, feature: Tensor, rois: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Apply RoIAlign, then the convolution once per ROI; equal to `reduce_then_crop`."""
    crops = F.conv2d(crop_rois(feature, rois, rows, columns), lateral.weight)
    # beyond the map there is no bias either
    inside = rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
    assert lateral.bias is not None
    bias = lateral.bias.to(crops.dtype)[:, None, None]
    return torch.addcmul(crops, bias, inside.to(crops.dtype))


def _reduce_first(lateral: nn.Conv2d, feature: Tensor, rois: Tensor, size: tuple[int, int]) -> bool:
    images, channels, height, width = feature.shape
    learns = torch.is_grad_enabled() and lateral.weight.requires_grad
    count = rois.shape[0]
    if type(count) is not int:  # a graph is exported, for any number
        images, count = 1, EXPORTED_ROIS
    before, after = order_macs(
        images, count, (channels, height, width), (lateral.out_channels, *size), learns, feature.requires_grad
    )
    return before <= after


def order_macs(
    images: int,
    count: int,
    feature: tuple[int, int, int],
    crop: tuple[int, int, int],
    learns: bool,
    feature_learns: bool,
) -> tuple[int, int]:
    """Return the multiply-accumulates of the 1x1 convolution before and after RoIAlign, with backward pass.

    Frozen features need no gradient: then RoIAlign costs nothing backward if it comes first. It is counted
    as if every ROI were as large as the map.

    Args:
        images, count: B and R.
        feature: (C, H, W) of the layer.
        crop: (c, h, w) of the crops.
        learns: whether a gradient of the convolution's weights is needed.
        feature_learns: whether a gradient of the features is needed.
    """
    channels, height, width = feature
    reduced, out_h, out_w = crop
    align = count * out_h * width * (height + out_w)  # per channel
    weights = channels * reduced
    convolved = 1 + learns + feature_learns
    before = images * height * width * weights * convolved + align * reduced * (
        1 + (learns or feature_learns)
    )
    after = align * channels * (1 + feature_learns) + count * out_h * out_w * weights * convolved
    return before, after
