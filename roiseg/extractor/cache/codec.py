"""Encode features as bytes smaller than float32, and decode them on any device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, int, int]  # C, H, W

_LARGEST = torch.finfo(torch.float16).max


class Codec(ABC):
    """Encodes the features of each image as a row of bytes."""

    @abstractmethod
    def length(self, shape: Shape) -> int:
        """Return the bytes per image of features of `shape` (C, H, W)."""

    @abstractmethod
    def encode(self, feature: Tensor) -> Tensor:
        """Encode float32 [B, C, H, W] as uint8 [B, length]."""

    @abstractmethod
    def decode(self, rows: Tensor, shape: Shape) -> Tensor:
        """Decode uint8 [B, length] to float32 [B, C, H, W]."""

    def pack(self, features: Sequence[Tensor]) -> Tensor:
        """Encode layers [B, C_l, H_l, W_l] as uint8 [B, sum of lengths]."""
        return torch.cat([self.encode(feature) for feature in features], dim=1)

    def unpack(self, rows: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Decode the layers of `pack`."""
        parts = rows.split([self.length(shape) for shape in shapes], dim=1)
        return tuple(self.decode(part, shape) for part, shape in zip(parts, shapes, strict=True))


class Half(Codec):
    """Float16: half the bytes, relative error up to 0.05 %, saturates at +-65504."""

    def length(self, shape: Shape) -> int:
        """See `Codec`."""
        return 2 * math.prod(shape)

    def encode(self, feature: Tensor) -> Tensor:
        """See `Codec`."""
        return feature.clamp(-_LARGEST, _LARGEST).half().flatten(1).contiguous().view(torch.uint8)

    def decode(self, rows: Tensor, shape: Shape) -> Tensor:
        """See `Codec`."""
        return rows.contiguous().view(torch.float16).unflatten(1, shape).float()


class Int8(Codec):
    """One byte per value: 255 even steps from the minimum to the maximum of each channel of each image.

    The error is up to 1/510 of that range.
    """

    def length(self, shape: Shape) -> int:
        """See `Codec`; 8 bytes per channel for its minimum and step."""
        return 8 * shape[0] + math.prod(shape)

    def encode(self, feature: Tensor) -> Tensor:
        """See `Codec`."""
        flat = feature.float().flatten(2)
        low, high = flat.aminmax(dim=2, keepdim=True)
        step = (high - low) / 255
        codes = ((flat - low) / step.clamp(min=1e-30)).round_().to(torch.uint8)
        header = torch.cat([low, step], dim=2).flatten(1).contiguous().view(torch.uint8)
        return torch.cat([header, codes.flatten(1)], dim=1)

    def decode(self, rows: Tensor, shape: Shape) -> Tensor:
        """See `Codec`."""
        numbers = rows[:, : 8 * shape[0]].flatten().clone().view(torch.float32)  # a copy is aligned
        header = numbers.view(len(rows), shape[0], 2)
        codes = rows[:, 8 * shape[0] :].unflatten(1, (shape[0], -1)).float()
        return torch.addcmul(header[..., :1], codes, header[..., 1:]).unflatten(2, shape[1:])
