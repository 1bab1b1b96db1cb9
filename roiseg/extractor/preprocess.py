"""Convert an image to the detector's input tensor."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.types import Size
from roiseg.geometry.transform import Letterbox

_PerChannel = Annotated[Sequence[float], Field(min_length=3, max_length=3)]


class Preprocess:
    """Letterboxing (in the loader) and normalization ``(pixel / divisor - mean) / std`` (on the device).

    Args:
        image_size: (H, W) of the detector's input in pixels.
        align: position of the letterboxed image: "center" or "topleft".
        pad_value: grey level 0..255 of the padding.
        keep_aspect: False: stretch instead of letterboxing.
        color: channel order of the detector.
        divisor: 255 for inputs in 0..1, 1 for inputs in 0..255.
        mean, std: one value per channel, in the detector's channel order, after the division.
    """

    def __init__(
        self,
        image_size: Size,
        align: Literal["center", "topleft"] = "center",
        pad_value: Annotated[int, Field(ge=0, le=255)] = 114,
        keep_aspect: bool = True,
        color: Literal["rgb", "bgr"] = "rgb",
        divisor: float = 255.0,
        mean: _PerChannel = (0.0, 0.0, 0.0),
        std: _PerChannel = (1.0, 1.0, 1.0),
    ) -> None:
        if 0 in (divisor, *std):
            raise UserError("extractor.preprocess: std and divisor must not be 0")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.letterbox = Letterbox(self.image_size, align, pad_value, keep_aspect)
        self.color = color
        # pixel * scale + bias in one pass
        self.scale = [1 / (divisor * s) for s in std]
        self.bias = [-m / s for m, s in zip(mean, std, strict=True)]

    def resized(self, image_size: tuple[int, int]) -> Preprocess:
        """Return the same for another size (H, W) of the input."""
        other = copy.copy(self)
        other.image_size, other.letterbox = image_size, replace(self.letterbox, size=image_size)
        return other

    def __call__(self, images: Tensor) -> Tensor:
        """Convert uint8 RGB [B, H, W, 3] to the detector's float32 [B, 3, H, W]."""
        if self.color == "bgr":
            images = images.flip(-1)
        scale = torch.tensor(self.scale, device=images.device)
        bias = torch.tensor(self.bias, device=images.device)
        return torch.addcmul(bias, images.float(), scale).permute(0, 3, 1, 2).contiguous()
