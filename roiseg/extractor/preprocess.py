"""Convert an image to the detector's input tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.geometry.transform import Letterbox


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
        image_size: Sequence[int],
        align: Literal["center", "topleft"] = "center",
        pad_value: int = 114,
        keep_aspect: bool = True,
        color: Literal["rgb", "bgr"] = "rgb",
        divisor: float = 255.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        if color not in ("rgb", "bgr"):
            raise UserError(f"extractor.preprocess.color must be rgb or bgr, got {color}")
        if len(mean) != 3 or len(std) != 3 or min(abs(s) for s in std) == 0 or divisor == 0:
            raise UserError(
                "extractor.preprocess: mean and std need 3 numbers each; std and divisor must not be 0"
            )
        if not all(map(math.isfinite, (divisor, *mean, *std))):
            raise UserError(
                f"extractor.preprocess: divisor, mean and std must be finite, got {divisor}, {mean}, {std}"
            )
        if len(image_size) != 2:
            raise UserError(f"extractor.preprocess.image_size must be [H, W], got {list(image_size)}")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.letterbox = Letterbox(self.image_size, align, pad_value, keep_aspect)
        self.color = color
        # pixel * scale + bias in one pass
        self.scale = [1 / (divisor * s) for s in std]
        self.bias = [-m / s for m, s in zip(mean, std, strict=True)]

    def __call__(self, images: Tensor) -> Tensor:
        """Convert uint8 RGB [B, H, W, 3] to the detector's float32 [B, 3, H, W]."""
        if self.color == "bgr":
            images = images.flip(-1)
        scale = torch.tensor(self.scale, device=images.device)
        bias = torch.tensor(self.bias, device=images.device)
        return torch.addcmul(bias, images.float(), scale).permute(0, 3, 1, 2).contiguous()
