from helpers.decoders import IMAGE_SIZE

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


def test_time_is_that_of_a_roi():
    narrow, wide = (
        measure_cost(RoiAlignDecoder([8], [4], IMAGE_SIZE, mid_channels=width, depth=4), [SHAPE])
        for width in (8, 128)
    )
    assert wide.roi_ms > narrow.roi_ms > 0
