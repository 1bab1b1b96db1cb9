"""Encode ROI, clicks and an earlier mask as prompts of the SAM-style decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.layers.transformer import LayerNorm2d

# rows of the table of kinds: no point, off the target, on it; then the first and the second corner
_CORNERS = 3


class FourierPositions(nn.Module):
    """Random Fourier features of positions (Tancik et al., 2020): sine and cosine of random projections.

    The projection is sampled once, from a normal distribution of deviation 1, and kept in checkpoints.

    Args:
        dim: even number of features.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, dim // 2))

    def forward(self, points: Tensor) -> Tensor:
        """Encode positions [..., 2], x and y in 0..1 over width and height, as [..., dim], float32."""
        x, y = (2 * points.float() - 1).unbind(dim=-1)
        # no matrix product: autocast would round the positions
        phases = x[..., None] * self.frequencies[0] + y[..., None] * self.frequencies[1]
        return torch.cat([torch.sin(2 * math.pi * phases), torch.cos(2 * math.pi * phases)], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Encode the centres of a grid's cells: [height * width, dim]."""
        device = self.frequencies.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return self(torch.stack([columns, rows], dim=-1)).flatten(0, 1)


class PromptEncoder(nn.Module):
    """Tokens of a ROI and its clicks.

    A token is the code of a position plus a learned vector of its kind: the ROI's first or second corner, a
    click on the target, a click off it. A missing click (label -1) has only a vector, no position; a ROI
    without clicks gets one such token.

    Differs from the source, which moves corners and clicks by half a pixel because its coordinates are
    indices of pixels: ROIs and clicks here are continuous (a pixel's centre is at i + 0.5 already).

    Args:
        dim: of a token.
        image_size: (H, W) of the input in pixels.
    """

    def __init__(self, dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.positions = FourierPositions(dim)
        self.kinds = nn.Embedding(_CORNERS + 2, dim)

    def forward(self, boxes: Tensor, points: Tensor | None) -> Tensor:
        """Encode prompts.

        Args:
            boxes: [R, 4] x1, y1, x2, y2 in input pixels.
            points: [R, P, 3] x, y in input pixels, and 1 on the target, 0 off it, -1 no click.

        Returns:
            [R, 2 + P, dim], P = 1 without points.
        """
        if points is None:
            points = boxes.new_tensor([0, 0, -1]).expand(
                boxes.shape[0], 1, 3
            )  # len() would fix R in an export
        corners = self._locate(boxes.unflatten(1, (2, 2))) + self.kinds.weight[_CORNERS:]
        labels = points[..., 2:]
        located = self._locate(points[..., :2])
        clicks = torch.where(labels < 0, torch.zeros_like(located), located)
        clicks = clicks + self.kinds((labels[..., 0] + 1).long())
        return torch.cat([corners, clicks], dim=1)

    def _locate(self, points: Tensor) -> Tensor:
        height, width = self.image_size
        shares = points.float() / points.new_tensor([width, height])
        return self.positions(shares).to(self.kinds.weight.dtype)


class PriorEncoder(nn.Sequential):
    """Encodes an earlier mask for the image embedding: the source's mask prompt, with K classes instead of 1.

    Two 2x2 convolutions of stride 2 (to 4 and 16 channels), each with LayerNorm and GELU, then 1x1 to `dim`.

    Args:
        num_classes: K.
        dim: of the image embedding.
        size: (h, w) of the image embedding.
    """

    def __init__(self, num_classes: int, dim: int, size: Sequence[int]) -> None:
        super().__init__(
            nn.Conv2d(num_classes, 4, 2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, dim, 1),
        )
        self.read_size = (4 * size[0], 4 * size[1])

    def forward(self, prior: Tensor) -> Tensor:
        """Encode probabilities: [R, K, any, any] -> [R, dim, h, w]."""
        sized = F.interpolate(prior, self.read_size, mode="bilinear", align_corners=False)
        return super().forward(sized)
