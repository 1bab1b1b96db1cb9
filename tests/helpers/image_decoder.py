"""The smallest decoder that draws on a map over the whole input, for tests of that frame."""

import torch
from torch import nn

from roiseg.decoders.base import DecoderOutput
from roiseg.decoders.layers.convolution import FeatureFusion
from roiseg.decoders.layers.image_decoder import ImageDecoder
from roiseg.geometry.roi_align import cell_cover


class TinyImageDecoder(ImageDecoder):
    """Reads the fused features and where the ROI is, cell by cell."""

    provides = ("seen",)
    prompts = ("points",)

    def __init__(
        self, in_channels, strides, image_size, num_classes: int = 3, map_stride: int = 4, width: int = 8,
        frame: str = "image", output_size=(14, 14), **shared,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, strides, image_size, num_classes, map_stride, frame, output_size, **shared
        )
        self.fuse = FeatureFusion(in_channels, strides, width, map_stride)
        self.mix = nn.Conv2d(width + 1, width, 1)
        self.predict = nn.Conv2d(width, num_classes, 1)

    def decode_map(self, features, rois, context):
        fused = self.fuse(features)[rois[:, 0].long()]
        seen = torch.relu(self.mix(torch.cat([fused, self._covered(rois)[:, None].to(fused.dtype)], dim=1)))
        return DecoderOutput(self.predict(seen), {"seen": seen})

    def _covered(self, rois):
        """Share of each cell of the map that is in the ROI, also where the logits are on another grid."""
        cells, (height, width) = rois[:, 1:] / self.map_stride, self.map_size
        columns, rows = (
            cell_cover(cells[:, 0], cells[:, 2], width),
            cell_cover(cells[:, 1], cells[:, 3], height),
        )
        return columns[:, None, :] * rows[:, :, None]
