"""The coarse mask head of PointRend."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import Context, Decoder, DecoderOptions, DecoderOutput, NumClasses
from roiseg.decoders.layers.convolution import msra_init, predictor_init, xavier_init
from roiseg.decoders.layers.roi_crop import RoiCrop


class CoarseDecoder(Decoder):
    """A light head for a first guess of 7x7 cells (Kirillov et al., PointRend, CVPR 2020, appendix).

    Features are read on a regular grid of 14x14 points over the ROI (RoIAlign with one sample per cell), a
    2x2 convolution of stride 2 and 256 channels halves the grid, two fully connected layers of 1024
    units follow, each with ReLU, and a third gives K x 7 x 7 logits. With 3 classes the head has
    14,308,755 parameters behind the grid.

    Differs from the source: the ROI is given; one softmax over the K classes of a cell replaces a
    sigmoid mask per object category; lateral convolutions summed after RoIAlign replace the finest
    level of a feature pyramid.

    Args:
        output_size: (h, w) of the logits; the regular grid has twice as many points.
        mid_channels: width of the features and of the convolution.
        hidden: units of a fully connected layer.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        output_size: Size = (7, 7),
        mid_channels: PositiveInt = 256,
        hidden: PositiveInt = 1024,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        height, width = self.output_size
        grid = (2 * height, 2 * width)
        self.crop = RoiCrop(in_channels, strides, mid_channels, grid, sampling_ratio=1)
        self.shrink = nn.Conv2d(mid_channels, mid_channels, 2, stride=2)
        self.first = nn.Linear(mid_channels * height * width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.predict = nn.Linear(hidden, num_classes * height * width)
        msra_init(self.shrink)
        xavier_init(self.first)
        xavier_init(self.second)
        predictor_init(self.predict)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`."""
        small = F.relu(self.shrink(self.crop(features, rois)))
        hidden = F.relu(self.second(F.relu(self.first(small.flatten(1)))))
        return DecoderOutput(self.predict(hidden).unflatten(1, (self.num_classes, *self.output_size)))
