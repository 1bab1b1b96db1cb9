"""Heads that exist during pre-training only: they make the features worth decoding and are then dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.extractor.tiny.network import CHANNELS
from roiseg.extractor.tiny.targets import DenseTargets, Pictures
from roiseg.geometry.roi_align import roi_align

PARTS = 8
ROI_CELLS = 28  # RoIAlign grid of the ROI head; its logits have twice as many


class DenseHead(nn.Module):
    """Linear maps from features to person, border, contact, sides and body parts at each cell.

    Being linear, they force the features themselves to hold what is asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(CHANNELS, 3 + 4 + PARTS, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 15, h, w]."""
        return self.maps(features)

    def loss(self, features: Tensor, truth: DenseTargets) -> Tensor:
        """Sum of the losses of all maps."""
        maps = self(features).float()
        person, border, contact = maps[:, 0], maps[:, 1], maps[:, 2]
        total = F.binary_cross_entropy_with_logits(person, truth.person.float()) + _dice(person, truth.person)
        for logits, wanted in ((border, truth.border), (contact, truth.contact)):
            weight = torch.where(wanted, 4.0, 1.0)
            total = total + F.binary_cross_entropy_with_logits(logits, wanted.float(), weight)
        cells = truth.person.sum().clamp(min=1)
        distance = F.smooth_l1_loss(maps[:, 3:7], truth.sides, beta=0.1, reduction="none").sum(1)
        total = total + (distance * truth.person).sum() / cells
        return total + F.cross_entropy(maps[:, 7:], truth.parts)


class RoiHead(nn.Module):
    """Labels the pixels of a ROI 0 background, 1 the ROI's person, 2 other persons.

    The dilated convolutions see most of the ROI: who its person is depends on where its edges are.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(CHANNELS, width, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=3, dilation=3), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=6, dilation=6), nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, features: Tensor, rois: Tensor, stride: float) -> Tensor:
        """[B, C, h, w] and rois [R, 5] -> logits [R, 3, 56, 56]."""
        return self.layers(roi_align(self.reduce(features), rois, (ROI_CELLS, ROI_CELLS), stride))

    def loss(self, features: Tensor, rois: Tensor, stride: float, truth: Tensor) -> Tensor:
        """Cross entropy plus the dice loss of the target; `truth` is long `[R, 56, 56]`."""
        logits = self(features, rois, stride).float()
        share = logits.softmax(1)[:, 1]
        wanted = (truth == 1).float()
        overlap = 2 * (share * wanted).sum((1, 2)) / (share.sum((1, 2)) + wanted.sum((1, 2)) + 1)
        return F.cross_entropy(logits, truth) + (1 - overlap).mean()


def draw_rois(
    pictures: Pictures, boxes: Tensor, each: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw jittered boxes of persons and label their pixels.

    Args:
        pictures: the truth.
        boxes: `[B, N, 4]`, NaN for the absent.
        each: ROIs per picture at most.
        generator: CPU generator of the jitter.

    Returns:
        rois `[R, 5]` sorted by picture, and labels 0, 1, 2, long `[R, 56, 56]`.
    """
    present = ~boxes[..., 0].isnan()
    order = torch.rand(present.shape, generator=generator).to(boxes.device).masked_fill(~present, -1)
    chosen = order.argsort(1, descending=True)[:, :each]
    keep = present.gather(1, chosen)
    batch, rank = keep.nonzero(as_tuple=True)
    number = chosen[batch, rank]
    own = boxes[batch, number]
    size = (own[:, 2:] - own[:, :2]).repeat(1, 2)
    jitter = torch.randn(own.shape, generator=generator).to(boxes.device) * 0.06
    own = own + jitter.clamp(-0.15, 0.15) * size
    grid = (torch.arange(2 * ROI_CELLS, device=boxes.device) + 0.5) / (2 * ROI_CELLS)
    last_y, last_x = pictures.instances.shape[1] - 1, pictures.instances.shape[2] - 1
    x = (own[:, :1] + grid * (own[:, 2:3] - own[:, :1])).long().clamp(0, last_x)
    y = (own[:, 1:2] + grid * (own[:, 3:4] - own[:, 1:2])).long().clamp(0, last_y)
    seen = pictures.instances[batch[:, None, None], y[:, :, None], x[:, None, :]].long()
    labels = torch.where(seen == number[:, None, None] + 1, 1, torch.where(seen > 0, 2, 0))
    return torch.cat([batch[:, None].float(), own], 1), labels


def _dice(logits: Tensor, wanted: Tensor) -> Tensor:
    share = logits.sigmoid()
    return 1 - (2 * (share * wanted).sum() + 1) / (share.sum() + wanted.sum() + 1)
