"""Further inputs of any decoder: the image, read at the resolution of the logits, and the pixel size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roiseg.decoders.layers.convolution import conv_norm_relu
from roiseg.geometry.roi_align import roi_align


class DetailBranch(nn.Module):
    """Corrects logits at edges that are too fine for the features, using the image.

    The image is read on the grid of the logits, its colours are normalised over each crop, and two
    light convolutions over image and logits together give a correction that is added.

    Args:
        width: channels of the branch.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.colors = nn.GroupNorm(1, 3)
        self.read = conv_norm_relu(3, width)
        self.mix = conv_norm_relu(width + num_classes, width)
        self.correct = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.correct.weight, std=0.01)  # the logits are almost unchanged at the start

    def forward(self, logits: Tensor, image: Tensor, windows: Tensor, rows: Tensor | None = None) -> Tensor:
        """Correct logits.

        Args:
            logits: [R, K, h, w].
            image: [B, 3, H, W], any value range.
            windows: [R, 5] image index and the box, in input pixels, the logits are stretched over; or
                [N, 5] with `rows`.
            rows: [R] which window each ROI's logits are stretched over; a window is read once.

        Returns:
            [R, K, h, w].
        """
        crops = roi_align(image, windows, (logits.shape[2], logits.shape[3]), stride=1)
        # contiguous: torch's GroupNorm crashes in the backward pass of channels-last inputs without gradient
        seen = self.read(self.colors(crops.to(logits.dtype).contiguous()))
        if rows is not None:
            seen = seen[rows]
        return logits + self.correct(self.mix(torch.cat([seen, logits], dim=1)))


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
