"""Numbers of parameters, cost, and options that cannot be."""

from functools import partial

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, NARROW, NARROW_SAM
from helpers.image_decoder import TinyImageDecoder

from roiseg.common.errors import UserError
from roiseg.decoders.cascade import CascadeDecoder
from roiseg.decoders.coarse import CoarseDecoder
from roiseg.decoders.condinst import CondInstDecoder
from roiseg.decoders.fcn8s import Fcn8sDecoder
from roiseg.decoders.layers.extra_inputs import DetailBranch, Film
from roiseg.decoders.maskrcnn import MaskRcnnDecoder
from roiseg.decoders.pointrend import PointRendDecoder
from roiseg.decoders.pyramid import PyramidDecoder
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.decoders.sam import MaskDecoder, SamDecoder
from roiseg.decoders.unet import UNetDecoder
from roiseg.decoders.yolact import YolactDecoder
from roiseg.diagnosis.decoder_costs import measure_cost

ONE = ([1024], [8], IMAGE_SIZE)


@pytest.mark.parametrize(("make", "number"), [  # as published, and the layer that reads the features
    (partial(RoiAlignDecoder, *ONE), 814_499), (partial(MaskRcnnDecoder, *ONE), 2_623_491 + 262_400),
    (partial(CoarseDecoder, *ONE), 14_308_755 + 262_400),
    (partial(PointRendDecoder, *ONE, CoarseDecoder), 200_460 + 14_308_755 + 2 * 262_400),
    (partial(CondInstDecoder, *ONE), 1_043_001), (partial(YolactDecoder, *ONE), 1_033_472),
    (partial(Fcn8sDecoder, [64, 96, 128], [8, 16, 32], (416, 416)), 3_476_745),
    (partial(Fcn8sDecoder, [256, 512, 512], [8, 16, 32], (224, 224), fc_channels=4096),  # of VGG-16
     119_545_856 + 12_291 + 1_539 + 771 + 288),
    (partial(UNetDecoder, [1024], [8], (640, 640)), 1_996_115),
    (partial(MaskDecoder, dim=256, masks=4, classes=1, depth=2, heads=8, mlp_width=2048), 4_058_340),
    (partial(SamDecoder, [1024], [8], (640, 640)), 5_174_756),
    (partial(SamDecoder, [1024], [8], (640, 640), prior=True), 5_174_756 + 4_716),
    (partial(Film, (6, 10), 2.0), 1_120), (partial(DetailBranch, 2, 5), 488),
])  # fmt: skip
def test_the_number_of_parameters_is_the_one_published_or_counted_by_hand(make, number):
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == number


SHAPE = (8, 16, 24)  # at stride 4 of IMAGE_SIZE


def test_macs_are_those_counted_by_hand():
    cost = measure_cost(RoiAlignDecoder([8], [4], IMAGE_SIZE, **NARROW), [SHAPE])
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
    decoders = [RoiAlignDecoder([8], [4], IMAGE_SIZE, mid_channels=width, depth=4) for width in (8, 128)]
    narrow, wide = (measure_cost(decoder, [SHAPE]) for decoder in decoders)
    assert wide.roi_ms > narrow.roi_ms > 0


class Needy(CoarseDecoder):
    """A coarse decoder that cannot do without a term of its own."""

    provides = needs = ("extra",)


def plain(decoder, **options):
    return partial(decoder, [8], [4], IMAGE_SIZE, **options)


def fcn8s(strides=(4, 8, 16), **options):
    size = (192, 192) if strides != (4, 8, 16) else IMAGE_SIZE
    return partial(Fcn8sDecoder, [8] * len(strides), strides, size, **options)


def unet(stride=8, **options):
    return partial(UNetDecoder, [8], [stride], (56, 56) if stride % 8 else IMAGE_SIZE, **options)


def sam(strides=(4,), **options):
    return partial(SamDecoder, [8] * len(strides), strides, IMAGE_SIZE, **{**NARROW_SAM, **options})


def pointrend(coarse=CoarseDecoder, of_coarse=None, **options):
    return plain(PointRendDecoder, coarse=partial(coarse, **(of_coarse or {})), **options)


STAGE = partial(RoiAlignDecoder, output_size=(14, 14))
READS = partial(STAGE, prior=True)
STAGES = {"first": STAGE, "second": READS}


@pytest.mark.parametrize(("make", "words"), [
    *((plain(RoiAlignDecoder, output_size=size), ["model.output_size"])
      for size in ((57, 56), (28, 56))),
    (plain(RoiAlignDecoder, output_size=(60, 60)), ["[14, 14], [28, 28], [56, 56], [112, 112]"]),
    *((plain(RoiAlignDecoder, roi_size=size), ["model.roi_size"]) for size in ((0, 14), (-14, -14))),
    (plain(PyramidDecoder, output_size=(57, 56)), ["model.output_size"]),
    *((plain(CondInstDecoder, upsample=factor), ["model.upsample"]) for factor in (3, 1.5)),
    (plain(YolactDecoder, upsample=3), ["model.upsample"]),
    *((fcn8s(roi_size=size), ["model.roi_size"]) for size in ((14, 14), (28, 30))),
    (fcn8s(output_size=(50, 50)), ["model.output_size [50, 50]"]),
    (fcn8s(output_size=(56, 28)), ["choose one of [28, 28], [56, 56], [112, 112], [224, 224]"]),
    *((fcn8s(strides), ["model=fcn8s needs three feature layers whose strides double (8, 16, 32)",
                        f"strides ({', '.join(map(str, strides))}): set extractor.layers"])
      for strides in ((4, 8), (8, 16, 64), (8, 16, 32, 64))),
    (unet(depth=4), ["model.depth must be at most 3, as often as the 8x12 map"]),
    (unet(map_stride=16), ["model.map_stride must be one of 8, 4, 2"]),
    *((unet(map_stride=stride), ["model.map_stride"]) for stride in (3, 1)),
    (unet(14, depth=1, map_stride=4), ["one of 14, 7 ("]), (unet(frame="roi", prior=True), ["model.prior"]),
    *((sam(stride=stride), ["model.stride"]) for stride in (6, 2, 20)),
    (sam((4, 6), stride=16), ["model.stride", "a multiple of 6"]),
    (sam(dim=32, heads=3), ["model.dim"]), (sam(prior=True, frame="roi"), ["model.frame=image"]),
    (sam(detail=8), ["model.detail", "extractor.layers"]),
    (pointrend(of_coarse={"num_classes": 2}), ["model.coarse.num_classes", "model.num_classes"]),
    (pointrend(Needy), ["model.coarse", "`extra`"]),
    (pointrend(CascadeDecoder, STAGES), ["model.coarse", "`first`"]),
    (pointrend(output_size=(7, 7)), ["model.output_size", "model.coarse", "[14, 14]"]),
    (pointrend(TinyImageDecoder, {"frame": "image"}), ["model.coarse decodes in the image frame"]),
    (plain(CascadeDecoder, first=STAGE, second=STAGE), ["model.second.prior=true"]),
    (plain(CascadeDecoder, first=partial(UNetDecoder, channels=8, depth=1), second=READS),
     ["model.first decodes in the image frame"]),
    (plain(CascadeDecoder, first=partial(STAGE, num_classes=2), second=READS), ["model.first.num_classes"]),
    (plain(CascadeDecoder, first=STAGE, second=partial(READS, num_classes=2)), ["model.second.num_classes"]),
    (plain(CascadeDecoder, first=partial(CascadeDecoder, **STAGES), second=READS), ["model.first is trained"]),
    *((plain(TinyImageDecoder, map_stride=128, frame=frame), ["stride 128", "input 64x96"])
      for frame in ("roi", "image")),
    (partial(TinyImageDecoder, [8], [4], (62, 96)), ["stride 4", "input 62x96"]),
])  # fmt: skip
def test_impossible_options_are_user_errors_of_one_line_that_name_the_field(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
