"""FiLM: features modulated by the pixel size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HIDDEN = 32  # width of the small network


class Film(nn.Module):
    """Scales and shifts every feature channel by functions of the pixel size.

    A small network computes gamma and beta from log(pixel size / base size) (Perez et al., FiLM, 2018);
    a feature f becomes (1 + gamma) f + beta, so that it starts out almost unchanged.

    Args:
        channels: of each feature layer.
        base_size: the pixel size that counts as 1.
    """

    def __init__(self, channels: Sequence[int], base_size: float) -> None:
        super().__init__()
        self.channels = list(channels)
        self.base_size = float(base_size)
        self.network = nn.Sequential(
            nn.Linear(1, _HIDDEN), nn.ReLU(inplace=True), nn.Linear(_HIDDEN, 2 * sum(channels))
        )
        output = self.network[-1]
        assert isinstance(output, nn.Linear)
        nn.init.normal_(output.weight, std=0.01)
        nn.init.zeros_(output.bias)

    def forward(self, features: Sequence[Tensor], pixel_size: Tensor) -> list[Tensor]:
        """Modulate features [B, C_l, H_l, W_l] of images with pixel sizes [B]."""
        scale = torch.log(pixel_size.float() / self.base_size)[:, None]
        values = self.network(scale.to(features[0].dtype)).unsqueeze(-1).unsqueeze(-1)
        gammas, betas = values.chunk(2, dim=1)
        return [
            feature * (1 + gamma) + beta
            for feature, gamma, beta in zip(
                features, gammas.split(self.channels, 1), betas.split(self.channels, 1), strict=True
            )
        ]
