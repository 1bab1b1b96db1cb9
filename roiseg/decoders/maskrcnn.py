"""The mask head of Mask R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import Unpack

from roiseg.common.types import Size
from roiseg.decoders.base import Context, Decoder, DecoderOptions, DecoderOutput, NumClasses, grid_size
from roiseg.decoders.layers.convolution import msra_init, predictor_init
from roiseg.decoders.layers.roi_crop import RoiCrop


class MaskRcnnDecoder(Decoder):
    """The fully convolutional mask head of Mask R-CNN (He et al., 2017).

    RoIAlign crops 14x14 cells, four 3x3 convolutions of 256 channels with ReLU and without norm follow,
    a 2x2 transposed convolution of stride 2 with ReLU doubles the grid to 28x28, a 1x1 convolution gives
    the logits. With 3 classes the head has 2,623,491 parameters behind the crop.

    Differs from the source: the ROI is given, so that no boxes are predicted; one softmax over the K
    classes of a pixel replaces a sigmoid mask per object category; lateral convolutions summed after
    RoIAlign replace the feature pyramid, of which the source reads one level chosen by the size of the
    ROI; RoIAlign takes 2 samples per cell and axis (as in the paper; its successor detectron2 takes as many
    as the cell has feature cells).

    Args:
        roi_size: (h, w) cells RoIAlign crops; the logits have twice as many.
        mid_channels: width of the head.
        depth: number of 3x3 convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        roi_size: Size = (14, 14),
        mid_channels: PositiveInt = 256,
        depth: NonNegativeInt = 4,
        sampling_ratio: PositiveInt = 2,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        height, width = grid_size(roi_size)
        output_size = (2 * height, 2 * width)
        super().__init__(in_channels, strides, image_size, num_classes, "roi", output_size, **shared)
        self.crop = RoiCrop(in_channels, strides, mid_channels, (height, width), sampling_ratio)
        convs = [nn.Conv2d(mid_channels, mid_channels, 3, padding=1) for _ in range(depth)]
        deconv = nn.ConvTranspose2d(mid_channels, mid_channels, 2, stride=2)
        predict = nn.Conv2d(mid_channels, num_classes, 1)
        for layer in convs:
            msra_init(layer)
        msra_init(deconv)
        predictor_init(predict)
        hidden = [part for layer in (*convs, deconv) for part in (layer, nn.ReLU(inplace=True))]
        self.head = nn.Sequential(*hidden, predict)

    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `Decoder.forward`."""
        return DecoderOutput(self.head(self.crop(features, rois)))
