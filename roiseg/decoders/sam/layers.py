"""What the parts of the SAM-style decoder are made of."""

from __future__ import annotations

from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """LayerNorm (Ba et al., 2016) over the channels of each cell of a map [N, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise; the result is in channels-last memory format."""
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def mlp(in_features: int, hidden: int, out_features: int, depth: int = 3) -> nn.Sequential:
    """`depth` linear layers with ReLU between them."""
    widths = [in_features, *[hidden] * (depth - 1)]
    steps: list[nn.Module] = []
    for width in widths[:-1]:
        steps += [nn.Linear(width, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps, nn.Linear(widths[-1], out_features))
