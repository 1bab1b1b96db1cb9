import torch
from helpers.decoders import IMAGE_SIZE
from torch import nn

from roiseg.decoders.base import Decoder, DecoderOutput
from roiseg.decoders.cost import measure_cost
from roiseg.decoders.roialign import RoiAlignDecoder

SHAPE = (8, 16, 24)  # at stride 4 of IMAGE_SIZE


def test_macs_are_those_counted_by_hand():
    decoder = RoiAlignDecoder([8], [4], IMAGE_SIZE, mid_channels=16, min_channels=16, depth=2)
    cost = measure_cost(decoder, [SHAPE])
    # RoIAlign as two matrix products on the cells that the ROI touches: 38.4 to 54.4 of 96 pixels, 19.2 to 40.5 of 64,
    # so rows [14 x 7] times [7 x 6 * 8], columns [14 x 6] times [6 x 8]; then the 1x1 convolution, cheaper on
    # 8 times 14x14 cells than RoIAlign of 16 channels
    crop = 14 * 7 * 6 * 8 + 14 * 14 * 6 * 8 + 14 * 14 * 8 * 16
    trunk = 2 * 14 * 14 * 16 * 16 * 9
    upsample = (28 * 28 + 56 * 56) * 16 * 16 * 9
    predict = 56 * 56 * 16 * 3
    assert cost.roi_macs == crop + trunk + upsample + predict
    assert cost.image_macs == 0
    assert cost.parameters == (8 * 16 + 16) + 4 * (16 * 16 * 9 + 32) + (16 * 3 + 3)
    wide = RoiAlignDecoder([64], [4], IMAGE_SIZE, mid_channels=4, depth=0)  # reduces before RoIAlign
    assert measure_cost(wide, [(64, 16, 24)]).image_macs == 16 * 24 * 64 * 4


class Slow(Decoder):
    """Work for each ROI that grows with `width`."""

    def __init__(self, width):
        super().__init__([8], [4], IMAGE_SIZE, 3, "roi", (4, 4))
        self.weight = nn.Parameter(torch.zeros(width, width))

    def decode(self, features, rois, context):
        product = torch.stack([self.weight @ self.weight for _ in range(len(rois))])
        return DecoderOutput(product[:, :1, :1, None].expand(-1, 3, 4, 4))


def test_time_is_that_of_a_roi():
    little, much = (measure_cost(Slow(width), [SHAPE]) for width in (8, 800))
    assert much.roi_macs == 800**3
    assert much.image_macs == 0
    assert much.roi_ms > little.roi_ms > 0
