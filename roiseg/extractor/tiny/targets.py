"""What the network is taught: boxes at cells, and dense targets made from masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from roiseg.extractor.tiny.network import STRIDE

RADIUS = 1.5  # cells around a box's centre that answer for it


@dataclass(frozen=True)
class Pictures:
    """Letterboxed pictures with their truth.

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

    def take(self, indices: Tensor) -> Pictures:
        """Pictures at `indices` `[N]`."""
        return Pictures(self.images[indices], self.instances[indices], self.parts[indices])


def person_boxes(instances: Tensor, most: int = 8) -> Tensor:
    """Tight boxes of persons 1..most, float `[B, most, 4]` as x1, y1, x2, y2; NaN for the absent.

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
        boxes: `[B, N, 4]` input pixels, NaN for the absent.
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


def dense_targets(pictures: Pictures, boxes: Tensor, stride: int) -> DenseTargets:
    """Make the dense truth at `stride` from the pixel in the middle of each cell."""
    middle = slice(stride // 2, None, stride)
    instances = pictures.instances[:, middle, middle]
    person = instances > 0
    number = (instances.long() - 1).clamp(min=0)
    batch = torch.arange(len(instances), device=instances.device)[:, None, None]
    own = boxes[batch, number]  # [B, h, w, 4]
    places = torch.arange(instances.shape[1], device=instances.device) * stride + stride // 2 + 0.5
    x, y = places[None, None, :], places[None, :, None]
    sides = torch.stack([x - own[..., 0], y - own[..., 1], own[..., 2] - x, own[..., 3] - y], 1) / 64
    border, contact = _neighbours(instances)
    parts = pictures.parts[:, middle, middle].long()
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
