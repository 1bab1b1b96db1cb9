"""YOLACT: every ROI mixes prototype masks of the whole input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import Context, DecoderOptions, DecoderOutput, Frame, NumClasses
from roiseg.decoders.layers.convolution import FeatureFusion
from roiseg.decoders.layers.image_decoder import ImageDecoder, RoiVector, finer_stride


class YolactDecoder(ImageDecoder):
    """A ROI's logits are a weighted sum of prototypes that all ROIs of an image share.

    YOLACT (Bolya et al., Real-time Instance Segmentation, ICCV 2019). The protonet, three 3x3
    convolutions, bilinear upsampling (x2), one more 3x3 and a 1x1 convolution, all with ReLU and
    without norms, turns the fused layers into `prototypes` maps of values >= 0, once per image. A vector
    read from each ROI gives K x `prototypes` coefficients between -1 and 1 (tanh); their products with
    the prototypes, summed, are the logits: no bias, no layer after it.

    Cropping to the box is left to what comes after, as with every decoder here: masks end at the ROI.
    In the image frame `loss.emphasis` says how much all pixels outside of it count; the source trains
    within the box only and divides by its area, which is `loss.emphasis.outside=0`.

    Differs from the source: coefficients are linear in a vector read from the ROI (`RoiVector`, whose
    convolutions have GroupNorm), not read at an anchor's cell; K maps a ROI for a softmax, not one for a
    sigmoid; the protonet reads a sum of the given layers, not the finest of a trained feature pyramid,
    and is 128 wide by default, not 256. Xavier-uniform weights and zero biases are the source's.

    Args:
        mid_channels: width of protonet and coefficient head; 256 in the source.
        prototypes: their number; 32 in the source.
        roi_size: (h, w) cells RoIAlign crops for the coefficients.
        roi_depth: 3x3 convolutions on that crop.
        upsample: factor by which the prototypes are finer than the finest layer; divides its stride.

    Raises:
        UserError: `upsample` does not divide the finest stride.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        mid_channels: PositiveInt = 128,
        prototypes: PositiveInt = 32,
        roi_size: Size = (7, 7),
        roi_depth: NonNegativeInt = 2,
        upsample: PositiveInt = 2,
        frame: Frame = "image",
        output_size: Size = (56, 56),
        **shared: Unpack[DecoderOptions],
    ) -> None:
        map_stride = finer_stride(strides, upsample)
        super().__init__(
            in_channels, strides, image_size, num_classes, map_stride, frame, output_size, **shared
        )
        self.fuse = FeatureFusion(in_channels, strides, mid_channels)
        self.protonet = nn.Sequential(
            *(_conv_relu(mid_channels, mid_channels, 3) for _ in range(3)),
            nn.Upsample(scale_factor=upsample, mode="bilinear", align_corners=False),
            _conv_relu(mid_channels, mid_channels, 3),
            _conv_relu(mid_channels, prototypes, 1),
        )
        self.read = RoiVector(mid_channels, roi_size, roi_depth)
        self.coefficients = nn.Linear(mid_channels, num_classes * prototypes)
        for part in (self.fuse, self.protonet, self.read, self.coefficients):
            part.apply(_xavier)

    def decode_map(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `ImageDecoder`."""
        fused = self.fuse(features)
        vector = self.read(fused, rois, self.fuse.stride)
        coefficients = self.coefficients(vector).tanh().unflatten(1, (self.num_classes, -1))
        return DecoderOutput(combine(self.protonet(fused), coefficients, rois[:, 0].long()))


def combine(prototypes: Tensor, coefficients: Tensor, image: Tensor) -> Tensor:
    """Sum prototypes by each ROI's coefficients, without a copy of them for each ROI.

    Args:
        prototypes: [B, P, h, w].
        coefficients: [R, K, P].
        image: [R] which image a ROI is of, in rising order.

    Returns:
        [R, K, h, w].
    """
    maps = prototypes.flatten(2)
    if type(maps.shape[0]) is not int:  # a graph is exported, for any number of images
        logits = coefficients @ maps[image]
    elif len(maps) == 1:
        logits = coefficients @ maps[0]
    else:
        counts = torch.bincount(image, minlength=len(maps)).tolist()
        parts = zip(coefficients.split(counts), maps, strict=True)
        logits = torch.cat([own @ its_maps for own, its_maps in parts])
    return logits.unflatten(2, prototypes.shape[2:])


def _conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return nn.Sequential(convolution, nn.ReLU(inplace=True))


def _xavier(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
