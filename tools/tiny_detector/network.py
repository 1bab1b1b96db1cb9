"""The network that becomes the embedded extractor: a person detector of about 0.2 million parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from roiseg.geometry.roi_align import roi_align

IMAGE_SIZE = 256  # input height and width, pixels
CHANNELS = 48  # of features_s4 and features_s8
STRIDE = 8  # input pixels per cell of the detection output


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        return F.relu(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Merge the batch norm's statistics into the convolution (evaluation mode only)."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class Residual(nn.Module):
    """x + two convolutions, the first through `middle` channels."""

    def __init__(self, channels: int, middle: int, first_kernel: int = 3) -> None:
        super().__init__()
        self.first = ConvUnit(channels, middle, first_kernel)
        self.second = ConvUnit(middle, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x + self.second(self.first(x))


class TinyPersonNet(nn.Module):
    """Backbone to stride 32, top-down path to stride 4, back up to stride 8, one anchor-free head.

    The input is RGB in 0..1, `[B, 3, 256, 256]`. `forward` returns, in this order,

    - the detections `[B, 1024, 6]`: dx, dy, log w, log h, objectness, person score, one row for each
      cell of the 32 x 32 grid in raster order. Centre = (d + cell) * 8 and size = exp(.) * 8 in
      input pixels; the last two are probabilities and the score of a box is their product;
    - `features_s4` `[B, 48, 64, 64]` and `features_s8` `[B, 48, 32, 32]`, which the detections pass through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 16, stride=2)
        self.stage4 = nn.Sequential(ConvUnit(16, 32, stride=2), Residual(32, 32))
        self.stage8 = nn.Sequential(ConvUnit(32, 48, stride=2), Residual(48, 32))
        self.stage16 = nn.Sequential(ConvUnit(48, 64, stride=2), Residual(64, 24, 1), Residual(64, 24, 1))
        self.stage32 = nn.Sequential(nn.MaxPool2d(2), Residual(64, 24, 1))
        self.top = ConvUnit(128, CHANNELS, 1)
        self.down8 = ConvUnit(2 * CHANNELS, CHANNELS, 1)
        self.down4 = nn.Sequential(ConvUnit(CHANNELS + 32, CHANNELS, 1), ConvUnit(CHANNELS, CHANNELS))
        self.up8 = ConvUnit(CHANNELS, CHANNELS, stride=2)
        self.join8 = ConvUnit(2 * CHANNELS, CHANNELS, 1)
        self.head = nn.Sequential(ConvUnit(CHANNELS, 32), nn.Conv2d(32, 6, 1))
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        with torch.no_grad():  # begin with rare persons of 20 x 60 pixels
            last.bias.copy_(torch.tensor([0.5, 0.5, 0.9, 2.0, -4.6, 0.0]))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> (features_s4, features_s8)."""
        s4 = self.stage4(self.stem(images))
        s8 = self.stage8(s4)
        s16 = self.stage16(s8)
        s32 = self.stage32(s16)
        top = self.top(torch.cat([s16, _double(s32)], 1))
        middle = self.down8(torch.cat([s8, _double(top)], 1))
        features_s4 = self.down4(torch.cat([s4, _double(middle)], 1))
        features_s8 = self.join8(torch.cat([self.up8(features_s4), middle], 1))
        return features_s4, features_s8

    def raw(self, features_s8: Tensor) -> Tensor:
        """Return detections before the sigmoid, `[B, cells, 6]`."""
        return self.head(features_s8).flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (detections, features_s4, features_s8); see the class."""
        features_s4, features_s8 = self.features(images)
        raw = self.raw(features_s8)
        return torch.cat([raw[..., :4], raw[..., 4:].sigmoid()], 2), features_s4, features_s8

    def fold_batch_norms(self) -> TinyPersonNet:
        """Merge all batch norms into their convolutions; the network must be in evaluation mode."""
        for module in list(self.modules()):
            if isinstance(module, ConvUnit):
                module.fold()
        return self


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


RADIUS = 1.5  # cells around a box's centre that answer for it


@dataclass(frozen=True)
class LabelledImages:
    """Letterboxed images with their truth.

    Attributes:
        images: RGB, uint8 `[B, 3, H, W]`.
        instances: uint8 `[B, H, W]`, 0 where there is no person, else the person's number.
        parts: body part at each pixel, uint8 `[B, H, W]`, 0 where there is no person.
    """

    images: Tensor
    instances: Tensor
    parts: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> LabelledImages:
        """Return the images at `indices` `[N]`."""
        return LabelledImages(self.images[indices], self.instances[indices], self.parts[indices])


def person_boxes(instances: Tensor, most: int = 8) -> Tensor:
    """Return tight boxes of persons 1..most, float `[B, most, 4]` as x1, y1, x2, y2; NaN for missing persons.

    Args:
        instances: uint8 `[B, H, W]`.
        most: highest person's number.
    """
    numbers = torch.arange(1, most + 1, device=instances.device)
    seen = instances[:, None] == numbers[:, None, None]  # [B, most, H, W]
    edges = []
    for axis in (2, 3):  # columns, then rows
        line = seen.any(axis).to(torch.uint8)
        edges += [line.argmax(-1), line.shape[-1] - line.flip(-1).argmax(-1)]
    boxes = torch.stack([edges[0], edges[2], edges[1], edges[3]], -1).float()
    return boxes.masked_fill(~seen.flatten(2).any(2)[..., None], float("nan"))


def assign(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Give each cell of the detection grid the box it answers for.

    A cell answers for the box with the nearest centre, if that is within 1.5 cells.

    Args:
        boxes: `[B, N, 4]` input pixels, NaN for missing persons.
        size: (H, W) of the input, pixels.

    Returns:
        Own box `[B, cells, 4]`, and whether the cell has one, bool `[B, cells]`.
    """
    rows, columns = torch.meshgrid(
        torch.arange(size[0] // STRIDE, device=boxes.device),
        torch.arange(size[1] // STRIDE, device=boxes.device),
        indexing="ij",
    )
    cells = (torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * STRIDE
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (cells[None, :, None] - centres[:, None]).norm(dim=-1)  # [B, cells, N]
    nearest = distance.nan_to_num(float("inf")).min(-1)
    own = boxes.gather(1, nearest.indices[..., None].expand(-1, -1, 4))
    return own, nearest.values <= RADIUS * STRIDE


@dataclass(frozen=True)
class DenseTargets:
    """Truth on a grid of cells; h, w are the input's over the stride.

    Attributes:
        person: bool `[B, h, w]`.
        parts: long `[B, h, w]`.
        sides: distances to the left, top, right and bottom of the own person's box in units of 64
            pixels, `[B, 4, h, w]`; defined at person cells.
        border: cells with another owner beside them, bool `[B, h, w]`.
        contact: cells with another person beside them, bool `[B, h, w]`.
    """

    person: Tensor
    parts: Tensor
    sides: Tensor
    border: Tensor
    contact: Tensor


def dense_targets(data: LabelledImages, boxes: Tensor, stride: int) -> DenseTargets:
    """Make the dense truth at `stride` from the pixel in the middle of each cell."""
    middle = slice(stride // 2, None, stride)
    instances = data.instances[:, middle, middle]
    person = instances > 0
    number = (instances.long() - 1).clamp(min=0)
    batch = torch.arange(len(instances), device=instances.device)[:, None, None]
    own = boxes[batch, number]  # [B, h, w, 4]
    places = torch.arange(instances.shape[1], device=instances.device) * stride + stride // 2 + 0.5
    x, y = places[None, None, :], places[None, :, None]
    sides = torch.stack([x - own[..., 0], y - own[..., 1], own[..., 2] - x, own[..., 3] - y], 1) / 64
    border, contact = _neighbours(instances)
    parts = data.parts[:, middle, middle].long()
    return DenseTargets(person, parts, sides.nan_to_num(0.0), border, contact)


def _neighbours(instances: Tensor) -> tuple[Tensor, Tensor]:
    border = torch.zeros_like(instances, dtype=torch.bool)
    contact = border.clone()
    padded = F.pad(instances[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    height, width = instances.shape[1:]
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        other = padded[:, dy : dy + height, dx : dx + width]
        differs = (other != instances) & (instances > 0)
        border |= differs
        contact |= differs & (other > 0)
    return border, contact


PARTS = 8
ROI_CELLS = 28  # RoIAlign grid of the ROI head; its logits have twice as many


class DenseHead(nn.Module):
    """Linear maps from features to person, border, contact, sides and body parts at each cell.

    Because they are linear, the features themselves must contain the information.
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
        """Compute cross-entropy plus the Dice loss of the target; `truth` is long `[R, 56, 56]`."""
        logits = self(features, rois, stride).float()
        share = logits.softmax(1)[:, 1]
        wanted = (truth == 1).float()
        overlap = 2 * (share * wanted).sum((1, 2)) / (share.sum((1, 2)) + wanted.sum((1, 2)) + 1)
        return F.cross_entropy(logits, truth) + (1 - overlap).mean()


def sample_rois(
    data: LabelledImages, boxes: Tensor, each: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw jittered boxes of persons and label their pixels.

    Args:
        data: the truth.
        boxes: `[B, N, 4]`, NaN for missing persons.
        each: ROIs per image at most.
        generator: CPU generator of the jitter.

    Returns:
        rois `[R, 5]` sorted by image, and labels 0, 1, 2, long `[R, 56, 56]`.
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
    last_y, last_x = data.instances.shape[1] - 1, data.instances.shape[2] - 1
    x = (own[:, :1] + grid * (own[:, 2:3] - own[:, :1])).long().clamp(0, last_x)
    y = (own[:, 1:2] + grid * (own[:, 3:4] - own[:, 1:2])).long().clamp(0, last_y)
    seen = data.instances[batch[:, None, None], y[:, :, None], x[:, None, :]].long()
    labels = torch.where(seen == number[:, None, None] + 1, 1, torch.where(seen > 0, 2, 0))
    return torch.cat([batch[:, None].float(), own], 1), labels


def _dice(logits: Tensor, wanted: Tensor) -> Tensor:
    share = logits.sigmoid()
    return 1 - (2 * (share * wanted).sum() + 1) / (share.sum() + wanted.sum() + 1)
