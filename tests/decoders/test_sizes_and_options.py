"""Numbers of parameters as published or counted by hand, and options that cannot be."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, NARROW_SAM
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


def conv(i, o, k=1):
    return i * o * k * k + o


def normed(*widths):
    """3x3 convolutions without bias, each with GroupNorm."""
    return sum(a * b * 9 + 2 * b for a, b in pairwise(widths))


SAM_NORM = 2 * 256
SAM_ATTENTION = 3 * conv(256, 128) + conv(128, 256)
SAM_BLOCK = 4 * conv(256, 256) + 2 * SAM_ATTENTION + conv(256, 2048) + conv(2048, 256) + 4 * SAM_NORM
SAM_TRANSFORMER = 2 * SAM_BLOCK + SAM_ATTENTION + SAM_NORM
SAM_UPSCALE = 256 * 64 * 4 + 64 + 2 * 64 + 64 * 32 * 4 + 32
SAM_HEADS = 4 * (2 * conv(256, 256) + conv(256, 32)) + 2 * conv(256, 256) + conv(256, 4)
SAM = SAM_TRANSFORMER + 5 * 256 + SAM_UPSCALE + SAM_HEADS
SAM_AROUND = (
    4 * 1024 * 256 + 256 + 2 * 256 + 5 * 256 + 4 * conv(256, 64)
)  # patches of 2x2, prompts, 2 classes
SAM_PRIOR = conv(3, 4, 2) + 2 * 4 + conv(4, 16, 2) + 2 * 16 + conv(16, 256)
POINT_HEAD = 3 * conv(256 + 3, 256) + conv(256 + 3, 3)  # features or the layer before, and coarse logits
COARSE = conv(256, 256, 2) + conv(256 * 49, 1024) + conv(1024, 1024) + conv(1024, 3 * 49)
MASK_HEAD = 4 * conv(256, 256, 3) + conv(256, 256, 2) + conv(256, 3)
UNET_DOWN = normed(32, 64, 64) + normed(64, 128, 128) + normed(128, 256, 256)
UNET_UP = normed(128 + 256, 128, 128) + normed(64 + 128, 64, 64) + normed(32 + 64, 32, 32)
CONDINST_HEAD = (10 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)
VGG = conv(512, 4096, 7) + conv(4096, 4096)

ONE = ([1024], [8], IMAGE_SIZE)


@pytest.mark.parametrize(("make", "by_hand", "number"), [
    (partial(RoiAlignDecoder, *ONE),
     conv(1024, 128) + 4 * normed(128, 128) + normed(128, 64, 32) + conv(32, 3), 814_499),
    (partial(MaskRcnnDecoder, *ONE), MASK_HEAD + conv(1024, 256), 2_623_491 + 262_400),
    (partial(CoarseDecoder, *ONE), COARSE + conv(1024, 256), 14_308_755 + 262_400),
    (partial(PointRendDecoder, *ONE, CoarseDecoder),
     POINT_HEAD + COARSE + 2 * conv(1024, 256), 200_460 + 14_308_755 + 2 * 262_400),
    (partial(CondInstDecoder, *ONE),
     conv(1024, 128) + 4 * normed(128, 128) + conv(128, 8) + 2 * normed(128, 128)
     + conv(128 + 2, CONDINST_HEAD), 1_043_001),
    (partial(YolactDecoder, *ONE),
     conv(1024, 128) + 4 * conv(128, 128, 3) + conv(128, 32) + 2 * normed(128, 128) + conv(128, 96), 1_033_472),
    (partial(Fcn8sDecoder, [64, 96, 128], [8, 16, 32], (416, 416)),
     conv(128, 512, 7) + conv(512, 512) + conv(512, 3) + conv(96, 3) + conv(64, 3) + 2 * 9 * 16, 3_476_745),
    (partial(Fcn8sDecoder, [256, 512, 512], [8, 16, 32], (224, 224), fc_channels=4096),  # of VGG-16
     VGG + conv(4096, 3) + conv(512, 3) + conv(256, 3) + 2 * 9 * 16, 119_545_856 + 12_291 + 1_539 + 771 + 288),
    (partial(UNetDecoder, [1024], [8], (640, 640)),
     conv(1024, 32) + 32 * 32 * 9 + 7 * 32 * 9 + 2 * 32 + normed(32, 32) + UNET_DOWN + UNET_UP
     + normed(32, 16) + conv(16, 3), 1_996_115),
    (partial(MaskDecoder, dim=256, masks=4, classes=1, depth=2, heads=8, mlp_width=2048), SAM, 4_058_340),
    (partial(SamDecoder, [1024], [8], (640, 640)), SAM + SAM_AROUND, 5_174_756),
    (partial(SamDecoder, [1024], [8], (640, 640), prior=True), SAM + SAM_AROUND + SAM_PRIOR, 5_174_756 + 4_716),
    (partial(Film, (6, 10), 2.0), conv(1, 32) + conv(32, 2 * 16), 1_120),
    (partial(DetailBranch, 2, 5), 2 * 3 + normed(3, 5) + normed(5 + 2, 5) + conv(5, 2), 488),
])  # fmt: skip
def test_the_number_of_parameters_is_the_one_counted_by_hand(make, by_hand, number):
    assert by_hand == number
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == number


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
    (sam((4, 6), stride=16), ["model.stride must be a multiple of 6"]),
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


def test_a_stride_that_cannot_be_halved_is_kept():
    assert unet(7, depth=1)().map_stride == 7
