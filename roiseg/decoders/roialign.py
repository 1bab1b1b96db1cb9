"""RoIAlign, a stack of convolutions, progressive upsampling."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import (
    Context,
    Decoder,
    DecoderOptions,
    DecoderOutput,
    NumClasses,
    doublings,
    grid_size,
    required,
)
from roiseg.decoders.layers.convolution import conv_norm_relu
from roiseg.decoders.layers.roi_crop import RoiCrop


class RoiAlignDecoder(Decoder):
    """Crops the ROI out of the features and decodes it at growing resolution.

    A 1x1 convolution brings every layer to `mid_channels` and RoIAlign (He et al., Mask R-CNN, 2017)
    crops `roi_size` cells, in the cheaper order of the two (`RoiCrop`), layers are summed, `depth` 3x3
    convolutions with GroupNorm and ReLU follow, then each upsampling step doubles the grid (bilinear) and
    halves the channels until `output_size`; a 1x1 convolution gives the logits.

    Args:
        roi_size: (h, w) cells RoIAlign crops.
        output_size: (h, w) of the logits; `roi_size` times a power of 2.
        mid_channels: width of the trunk.
        min_channels: upsampling steps do not go below this width.
        depth: number of 3x3 convolutions before upsampling.
        prior: also read the probabilities of an earlier decoder (`CascadeDecoder`).

    Raises:
        UserError: `output_size` cannot be reached from `roi_size` by doubling.
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
        mid_channels: PositiveInt = 128,
        min_channels: PositiveInt = 32,
        depth: NonNegativeInt = 4,
        sampling_ratio: PositiveInt = 2,
        prior: bool = False,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        self.roi_size = grid_size(roi_size)
        self.crop = RoiCrop(in_channels, strides, mid_channels, self.roi_size, sampling_ratio)
        self.read_prior = nn.Conv2d(num_classes, mid_channels, 1) if prior else None
        self.prompts = ("prior",) if prior else ()
        self.trunk = nn.Sequential(*(conv_norm_relu(mid_channels, mid_channels) for _ in range(depth)))
        steps: list[nn.Module] = []
        width = mid_channels
        for _ in range(doublings(self.roi_size, self.output_size)):
            narrower = max(min(min_channels, width), width // 2)
            steps += [
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                conv_norm_relu(width, narrower),
            ]
            width = narrower
        self.upsample = nn.Sequential(*steps)
        self.predict = nn.Conv2d(width, num_classes, 1)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`; `embeddings` [R, D, *output_size] are what the last layer sees."""
        fused = self.crop(features, rois)
        if self.read_prior is not None:
            prior = required(context.prior, "prior", "prior")
            fused = fused + self.read_prior(F.interpolate(prior, self.roi_size, mode="area"))
        embeddings = self.upsample(self.trunk(fused))
        return DecoderOutput(self.predict(embeddings), {"embeddings": embeddings})
