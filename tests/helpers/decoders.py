"""Decoders under test; a new decoder joins by a line in CASES."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from roiseg.decoders.base import Decoder
from roiseg.decoders.cascade import CascadeDecoder
from roiseg.decoders.coarse import CoarseDecoder
from roiseg.decoders.condinst import CondInstDecoder
from roiseg.decoders.fcn8s import Fcn8sDecoder
from roiseg.decoders.maskrcnn import MaskRcnnDecoder
from roiseg.decoders.pointrend import PointRendDecoder
from roiseg.decoders.pyramid import PyramidDecoder
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.decoders.sam import SamDecoder
from roiseg.decoders.unet import UNetDecoder
from roiseg.decoders.yolact import YolactDecoder
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.deep_supervision import DeepSupervision, PointCrossEntropy
from roiseg.losses.dice import Dice
from roiseg.losses.multimask import IouScore, MultimaskMinimum

IMAGE_SIZE = (64, 96)  # of the images in these tests, pixels
ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, 30.0, 10.0, 95.5, 50.5],
    [2, -4.0, -6.0, 33.0, 30.0],  # over the border; the second of three images has none
])  # fmt: skip
# cx, cy, rx, ry; 1-3 overlap
ELLIPSES = [(24, 30, 14, 22), (41, 33, 12, 20), (60, 46, 16, 14), (83, 20, 9, 15)]


def target_probability(logits):
    """The probability of the target, [R, K, h, w] -> [R, h, w]."""
    return logits.float().softmax(dim=1)[:, 1]


def mirror_symmetric(decoder):
    """Make every convolution's kernel its own mirror image."""
    for module in decoder.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2


@dataclass(frozen=True)
class Case:
    """A decoder to test."""

    name: str
    make: Callable[[], Decoder]
    small: bool = False  # cheap enough to be trained in a test
    # gives it weights with which mirrored input gives mirrored logits; None where no weights do
    symmetric: Callable[[Decoder], None] | None = mirror_symmetric
    terms: Mapping[str, Any] = field(default_factory=dict)  # it learns by, beside those of every decoder
    steps: int = 300  # to learn a batch by heart
    rate: float = 1e-2


def builder(kind, in_channels=(8,), strides=(4,), **defaults):
    """A function of layers and options that returns how to make a decoder of this kind."""

    def make(in_channels=in_channels, strides=strides, **options):
        return partial(kind, in_channels, strides, IMAGE_SIZE, **{**defaults, **options})

    return make


roialign, condinst, yolact = builder(RoiAlignDecoder), builder(CondInstDecoder), builder(YolactDecoder)
unet, maskrcnn, coarse, sam = map(builder, (UNetDecoder, MaskRcnnDecoder, CoarseDecoder, SamDecoder))
pyramid = builder(PyramidDecoder, (6, 8, 10), (4, 8, 16))
fcn8s = builder(Fcn8sDecoder, (6, 8, 10), (4, 8, 16), fc_channels=16, dropout=0.0)


def condinst_symmetric(decoder):
    """Mirror-symmetric kernels, and filters that do not look at the x coordinate."""
    mirror_symmetric(decoder)
    first = slice(0, 80, 10)  # the first layer's weights are 8 x 10; x is the first input
    decoder.controller.weight.data[first] = 0
    decoder.controller.bias.data[first] = 0


NARROW = {"mid_channels": 16, "min_channels": 16, "depth": 2}


def cascade(**options):
    first, second = (partial(RoiAlignDecoder, **NARROW, **more) for more in ({}, {"prior": True}))
    return builder(CascadeDecoder)(first=first, second=second, **options)


def unet_symmetric(decoder):
    """As `mirror_symmetric`, but odd kernels read the maps of distances in x, whose signs change."""
    odd = decoder.read_rois.weight.data.clone()
    mirror_symmetric(decoder)
    for channel in (1, 5):  # dx, relative x
        decoder.read_rois.weight.data[:, channel] = (odd[:, channel] - odd[:, channel].flip(-1)) / 2


SMALL_UNET = {"channels": 8, "depth": 2}
FIRST_STAGE = {"first": {"term": DeepSupervision(CrossEntropy()), "weight": 0.5}}
NARROW_CONDINST = {"mid_channels": 16, "mask_depth": 1, "roi_depth": 1}
NARROW_YOLACT = {"mid_channels": 16, "prototypes": 12, "roi_depth": 1}


def pointrend(in_channels=(8,), strides=(4,), coarse=CoarseDecoder, of_coarse=None, **options):
    first = partial(coarse, num_classes=options.get("num_classes", 3), **(of_coarse or {}))
    return partial(PointRendDecoder, in_channels, strides, IMAGE_SIZE, coarse=first, **options)


def coarse_symmetric(decoder):
    """Mirror symmetric kernels; a mirrored crop makes hidden units change places in pairs."""
    mirror_symmetric(decoder)
    for head in (m for m in decoder.modules() if isinstance(m, CoarseDecoder)):
        cells, out = head.output_size, head.predict.weight
        pairs = len(head.second.weight)
        first = head.first.weight.data.unflatten(1, (-1, *cells))
        first[pairs // 2 :] = first[: pairs // 2].flip(-1)
        second = head.second.weight.data
        second[pairs // 2 :] = second[: pairs // 2].roll(pairs // 2, 1)
        last = out.data.unflatten(0, (-1, *cells))
        last[..., pairs // 2 :] = last[..., : pairs // 2].flip(-2)


NARROW_COARSE = {"mid_channels": 12, "hidden": 32}
NARROW_POINTS = {"mid_channels": 16, "depth": 2, "subdivision_points": 196}
POINTS = {"points": {"term": PointCrossEntropy(), "weight": 1.0}}
NARROW_SAM = {"stride": 8, "dim": 32, "heads": 4, "mlp_width": 64, "candidates": 2}
BEST = {"focal": {"term": FocalCrossEntropy(), "weight": 20.0}, "dice": {"term": Dice(), "weight": 1.0}}
CANDIDATES = {
    "candidates": {"term": MultimaskMinimum(BEST), "weight": 1.0}, "iou": {"term": IouScore(), "weight": 1.0},
}  # fmt: skip

CASES = [
    Case("roialign", roialign()),
    Case("roialign-28-56", roialign(roi_size=(28, 28), output_size=(56, 56), **NARROW), small=True),
    Case("roialign-16x12-64x48", roialign(roi_size=(16, 12), output_size=(64, 48), **NARROW), small=True),
    Case("roialign-2-classes", roialign(num_classes=2, **NARROW), small=True),
    Case("roialign-no-upsampling", roialign(output_size=(14, 14), **NARROW)),
    Case("roialign-film", roialign(film=1.5, **NARROW), small=True),
    Case("roialign-detail", roialign(detail=6, **NARROW), small=True),
    Case("cascade", cascade(), small=True, terms=FIRST_STAGE),
    Case("roialign-tiny-widths", roialign(mid_channels=3, min_channels=1, depth=1, sampling_ratio=1)),
    Case("pyramid", pyramid((8,), (8,))),
    Case("pyramid-three-layers", pyramid(**NARROW), small=True),
    Case("pyramid-margin-film-detail",
         pyramid(roi_size=(8, 6), output_size=(32, 24), margin=1, detail=4, num_classes=2, film=1.5, **NARROW),
         small=True),
    Case("pyramid-one-level", pyramid(output_size=(14, 14), margin=2, detail=4, dropout=0.0, **NARROW)),
    Case("condinst", condinst(), symmetric=condinst_symmetric),
    Case("condinst-image", condinst(**NARROW_CONDINST), small=True, symmetric=condinst_symmetric),
    Case("condinst-roi-two-layers",
         condinst((6, 10), (4, 8), frame="roi", output_size=(28, 28), **NARROW_CONDINST), small=True,
         symmetric=condinst_symmetric),
    Case("condinst-2-classes-film-detail",
         condinst(num_classes=2, film=1.5, detail=4, upsample=1, **NARROW_CONDINST),
         symmetric=condinst_symmetric),
    Case("yolact", yolact()),
    Case("yolact-image", yolact(**NARROW_YOLACT), small=True),
    Case("yolact-roi-two-layers",
         yolact((6, 10), (4, 8), frame="roi", output_size=(28, 28), **NARROW_YOLACT), small=True),
    Case("yolact-2-classes-film-detail",
         yolact(num_classes=2, film=1.5, detail=4, upsample=1, **NARROW_YOLACT)),
    Case("unet", unet(), symmetric=unet_symmetric),
    Case("unet-narrow", unet(**SMALL_UNET), symmetric=unet_symmetric, small=True),
    Case("unet-roi", unet(frame="roi", channels=8, depth=1), symmetric=unet_symmetric, small=True),
    Case("unet-stride-8-to-4", unet((6, 10), (8, 16), **SMALL_UNET), symmetric=unet_symmetric),
    Case("unet-detail", unet(strides=(8,), map_stride=8, detail=6, film=1.5, **SMALL_UNET),
         symmetric=unet_symmetric),
    Case("fcn8s-narrow", fcn8s(), small=True),
    Case("fcn8s-any-order",
         fcn8s((10, 6, 8), (16, 4, 8), roi_size=(16, 12), output_size=(64, 48), film=1.5)),
    Case("fcn8s-at-once", fcn8s(at_once=True, output_size=(28, 28), num_classes=2, detail=6)),
    Case("maskrcnn-narrow", maskrcnn(mid_channels=16, depth=2), small=True, rate=3e-3),
    Case("maskrcnn-two-layers-film-detail",
         maskrcnn((6, 10), (4, 8), roi_size=(8, 6), mid_channels=8, num_classes=2, film=1.5, detail=4)),
    Case("coarse-narrow", coarse(**NARROW_COARSE), symmetric=coarse_symmetric, small=True, rate=3e-3),
    Case("coarse-8x6", coarse((6, 10), (4, 8), output_size=(8, 6), detail=4), symmetric=coarse_symmetric),
    Case("pointrend-narrow", pointrend(of_coarse=NARROW_COARSE, **NARROW_POINTS), symmetric=coarse_symmetric,
         terms=POINTS, small=True, rate=3e-3),
    Case("pointrend-of-roialign",
         pointrend((6, 10), (4, 8), RoiAlignDecoder,
                   {"output_size": (14, 14), "film": 1.5, "detail": 4, **NARROW}, output_size=(28, 28),
                   **NARROW_POINTS),
         terms=POINTS, small=True),
    Case("pointrend-2-classes-film-detail",
         pointrend(num_classes=2, of_coarse=NARROW_COARSE, film=1.5, detail=4, **NARROW_POINTS),
         symmetric=coarse_symmetric, terms=POINTS),
    Case("sam-image", sam(**NARROW_SAM), small=True, symmetric=None, terms=CANDIDATES, rate=3e-3),
    Case("sam-roi", sam((6, 10), (4, 8), frame="roi", output_size=(28, 20), depth=1, film=1.5, **NARROW_SAM),
         small=True, symmetric=None, terms=CANDIDATES, rate=3e-3),
    Case("cascade-of-condinst-and-sam",
         builder(CascadeDecoder)(first=partial(CondInstDecoder, **NARROW_CONDINST),
                                 second=partial(SamDecoder, prior=True, **NARROW_SAM), film=1.5),
         small=True, symmetric=None, terms={**FIRST_STAGE, **CANDIDATES}, rate=3e-3),
    Case("sam-one-mask-2-classes", sam(num_classes=2, **{**NARROW_SAM, "candidates": 1}), symmetric=None),
]  # fmt: skip


def random_features(decoder, images, seed=0, size=IMAGE_SIZE):
    """Features of `images` images of a size."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    return [
        torch.randn(images, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(decoder.in_channels, decoder.strides, strict=True)
    ]


@dataclass(frozen=True)
class Scene:
    """One image of four ellipses, three of which overlap, and a ROI around each."""

    features: list[torch.Tensor]
    rois: torch.Tensor
    targets: torch.Tensor  # uint8 [4, h, w]


def ellipse_scene(decoder) -> Scene:
    """Features that show where each ellipse is (in random directions, with noise), ROIs, targets."""
    generator = torch.Generator().manual_seed(0)
    height, width = IMAGE_SIZE
    pixels = _inside(torch.arange(width) + 0.5, torch.arange(height) + 0.5).float()
    features = []
    for noise, stride in zip(random_features(decoder, 1), decoder.strides, strict=True):
        mix = torch.randn(noise.shape[1], len(ELLIPSES), generator=generator)
        features.append(torch.einsum("ce,behw->bchw", mix, F.avg_pool2d(pixels[None], stride)) + 0.05 * noise)
    rois = torch.tensor([[0.0, x - rx, y - ry, x + rx, y + ry] for x, y, rx, ry in ELLIPSES])
    h, w = decoder.output_size
    targets = []
    for number, (_, x1, y1, x2, y2) in enumerate(rois.tolist()):
        if decoder.frame == "image":
            x1, y1, x2, y2 = 0, 0, width, height
        columns = x1 + (torch.arange(w) + 0.5) * (x2 - x1) / w
        rows = y1 + (torch.arange(h) + 0.5) * (y2 - y1) / h
        inside = _inside(columns, rows)
        target = inside.any(0).to(torch.uint8) * (2 if decoder.num_classes == 3 else 0)
        target[inside[number]] = 1
        targets.append(target)
    return Scene(features, rois, torch.stack(targets))


def learned_target_iou(decoder, loss, steps, rate, context=None):
    """IoU of what is predicted as target once the scene is learned by heart; stops at 0.97."""
    scene, best = ellipse_scene(decoder), 0.0
    truth = scene.targets == 1
    optimizer = torch.optim.Adam([*decoder.parameters(), *loss.parameters()], lr=rate)
    for step in range(steps):
        loss.epoch = 1 + step // 10
        optimizer.zero_grad()
        loss(decoder.train()(scene.features, scene.rois, context), scene.targets)[0].backward()
        optimizer.step()
        if step % 5 == 4:
            with torch.no_grad():
                predicted = decoder.eval()(scene.features, scene.rois, context).logits.argmax(1) == 1
            best = max(best, float((predicted & truth).sum() / (predicted | truth).sum()))
            if best >= 0.97 and loss.epoch >= max(loss.starts.values()):
                break
    return best


def _inside(x, y):
    """[4, len(y), len(x)]: which ellipses hold each point of a grid."""
    y = y[:, None]
    return torch.stack([((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1 for cx, cy, rx, ry in ELLIPSES])
