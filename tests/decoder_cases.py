"""Decoders under test; a new decoder joins by a line in CASES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from roiseg.decoders.base import Decoder
from roiseg.decoders.roialign import RoiAlignDecoder

IMAGE_SIZE = (64, 96)  # of the pictures in these tests, pixels
ELLIPSES = [
    (24, 30, 14, 22),
    (41, 33, 12, 20),
    (60, 46, 16, 14),
    (83, 20, 9, 15),
]  # cx, cy, rx, ry; 1-3 overlap


def mirror_symmetric(decoder):
    """Make every convolution's kernel its own mirror image."""
    for module in decoder.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2


@dataclass(frozen=True)
class Case:
    """A decoder to test.

    Attributes:
        name: shown by pytest.
        make: builds it.
        small: cheap enough to be trained in a test.
        symmetric: gives it weights with which mirrored input gives mirrored logits; None where no
            weights do.
        terms: loss terms it learns by beside those of every decoder.
        steps, rate: how long and how fast it is trained to learn a batch by heart.
    """

    name: str
    make: Callable[[], Decoder]
    small: bool = False
    symmetric: Callable[[Decoder], None] | None = mirror_symmetric
    terms: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 300
    rate: float = 1e-2


def roialign(in_channels=(8,), strides=(4,), **options):
    return partial(RoiAlignDecoder, in_channels, strides, IMAGE_SIZE, **options)


NARROW = {"mid_channels": 16, "min_channels": 16, "depth": 2}

CASES = [
    Case("roialign", roialign()),
    Case("roialign-28-112", roialign(roi_size=(28, 28), output_size=(112, 112), **NARROW)),
    Case("roialign-28-56", roialign(roi_size=(28, 28), output_size=(56, 56), **NARROW), small=True),
    Case("roialign-16x12-64x48", roialign(roi_size=(16, 12), output_size=(64, 48), **NARROW), small=True),
    Case("roialign-two-layers", roialign((6, 10), (4, 8), **NARROW), small=True),
    Case("roialign-2-classes", roialign(num_classes=2, **NARROW), small=True),
    Case("roialign-depth-0", roialign(mid_channels=16, min_channels=16, depth=0)),
    Case("roialign-no-upsampling", roialign(output_size=(14, 14), **NARROW)),
    Case("roialign-film", roialign(film=1.5, **NARROW), small=True),
    Case("roialign-detail", roialign(detail=6, **NARROW), small=True),
    Case("roialign-tiny-widths", roialign(mid_channels=3, min_channels=1, depth=1, sampling_ratio=1)),
]


def random_features(decoder, images, seed=0):
    """Features of `images` pictures of IMAGE_SIZE."""
    generator = torch.Generator().manual_seed(seed)
    height, width = IMAGE_SIZE
    return [
        torch.randn(images, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(decoder.in_channels, decoder.strides, strict=True)
    ]


@dataclass(frozen=True)
class Scene:
    """One picture of four ellipses, three of which overlap, and a ROI around each."""

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
    rois = torch.tensor(
        [[0, x - rx, y - ry, x + rx, y + ry] for x, y, rx, ry in ELLIPSES], dtype=torch.float32
    )
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


def _inside(x, y):
    """[4, len(y), len(x)]: which ellipses hold each point of a grid."""
    return torch.stack(
        [((x - cx) / rx)[None, :] ** 2 + ((y - cy) / ry)[:, None] ** 2 <= 1 for cx, cy, rx, ry in ELLIPSES]
    )
