"""What the parts of the SAM-style decoder are made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.common.errors import UserError


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


class PatchEmbedding(nn.Module):
    """One embedding of several feature layers: patches of the finer ones, coarser ones resized, summed.

    A layer n times finer than the embedding is read by a convolution of kernel and stride n, as a ViT reads
    pixels (Dosovitskiy et al., 2021), which loses nothing of what is smaller than a cell; any other by a 1x1
    convolution, resized bilinearly. LayerNorm at the end, as in the neck of Segment Anything's encoder.

    Args:
        in_channels, strides: of the layers.
        dim: channels of the embedding.
        stride: input pixels per cell of the embedding.

    Raises:
        UserError: a layer is finer than the embedding, but not a whole number of times.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], dim: int, stride: int) -> None:
        super().__init__()
        for layer in strides:
            if layer < stride and stride % layer:
                raise UserError(f"model.stride must be a multiple of {layer}, a layer's stride, got {stride}")
        patches = [max(1, stride // layer) for layer in strides]
        self.read = nn.ModuleList(
            nn.Conv2d(channels, dim, patch, stride=patch)
            for channels, patch in zip(in_channels, patches, strict=True)
        )
        self.scales = [max(1, layer / stride) for layer in strides]
        self.norm = LayerNorm2d(dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[B, C_l, H_l, W_l] a layer -> [B, dim, H, W]."""
        maps = []
        for read, feature, scale in zip(self.read, features, self.scales, strict=True):
            embedded = read(feature)
            if scale > 1:
                size = [round(side * scale) for side in feature.shape[2:]]
                embedded = F.interpolate(embedded, size, mode="bilinear", align_corners=False)
            maps.append(embedded)
        return self.norm(sum(maps[1:], maps[0]))
