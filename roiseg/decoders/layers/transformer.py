"""The two-way transformer of Segment Anything (Kirillov et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roiseg.decoders.base import require_multiple


class LayerNorm2d(nn.Module):
    """LayerNorm (Ba et al., 2016) over the channels of each cell of a map [N, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize; the result is in channels-last memory format."""
        return self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def mlp(in_features: int, hidden: int, out_features: int, depth: int = 3) -> nn.Sequential:
    """Build `depth` linear layers with ReLU between them."""
    widths = [in_features, *[hidden] * (depth - 1)]
    steps: list[nn.Module] = []
    for width in widths[:-1]:
        steps += [nn.Linear(width, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*steps, nn.Linear(widths[-1], out_features))


class PatchEmbedding(nn.Module):
    """One embedding of several feature layers: patches of the finer ones, coarser ones resized, summed.

    A layer n times finer than the embedding is read by a convolution of kernel and stride n, as a ViT reads
    pixels (Dosovitskiy et al., 2021), which keeps details smaller than a cell; any other by a 1x1
    convolution, resized bilinearly. LayerNorm at the end, as in the neck of Segment Anything's encoder.

    Args:
        dim: channels of the embedding.
        stride: input pixels per cell of the embedding.

    Raises:
        UserError: a layer is finer than the embedding, but not a whole number of times.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], dim: int, stride: int) -> None:
        super().__init__()
        finer = [layer for layer in strides if layer < stride]
        require_multiple("model.stride, for the strides of the layers,", stride, *finer)
        patches = [max(1, stride // layer) for layer in strides]
        self.read = nn.ModuleList(
            nn.Conv2d(channels, dim, patch, stride=patch)
            for channels, patch in zip(in_channels, patches, strict=True)
        )
        self.scales = [max(1, layer / stride) for layer in strides]
        self.norm = LayerNorm2d(dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Embed the features: [B, C_l, H_l, W_l] per layer -> [B, dim, H, W]."""
        maps = []
        for read, feature, scale in zip(self.read, features, self.scales, strict=True):
            embedded = read(feature)
            if scale > 1:
                size = [round(side * scale) for side in feature.shape[2:]]
                embedded = F.interpolate(embedded, size, mode="bilinear", align_corners=False)
            maps.append(embedded)
        return self.norm(sum(maps[1:], maps[0]))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) whose inner width may be smaller than the tokens'.

    Args:
        inner: width of queries, keys and values over all heads.
    """

    def __init__(self, dim: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(dim, inner)
        self.value = nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        query_rows: Tensor | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            queries: [R, Q, dim], or [B, Q, dim] with `query_rows`.
            keys, values: [R, N, dim], or [B, N, dim] with `key_rows`.
            query_rows: [R] which entry of `queries` each result reads; they are projected once per entry.
            key_rows: [R] the same for `keys` and `values`.

        Returns:
            [R, Q, dim].
        """
        query = self._split(take(self.query(queries), query_rows))
        key = self._split(take(self.key(keys), key_rows))
        value = self._split(take(self.value(values), key_rows))
        return self.out(attend(query, key, value).transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """Split the heads: [R, T, inner] -> [R, heads, T, inner / heads]."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute torch's attention; in float32 for bfloat16 on a CPU, whose backward pass is 4 times slower."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; LayerNorm after each.

    Args:
        dim, heads: of the tokens; attention to and from the image is half as wide.
        mlp_width: hidden width of the MLP.
        first: the self-attention replaces the tokens and adds no positions: they are in the tokens.
    """

    def __init__(self, dim: int, heads: int, mlp_width: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.among_tokens = Attention(dim, dim, heads)
        self.to_image = Attention(dim, dim // 2, heads)
        self.mlp = mlp(dim, mlp_width, dim, depth=2)
        self.to_tokens = Attention(dim, dim // 2, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))

    def forward(
        self, tokens: Tensor, image: Tensor, prompts: Tensor, positions: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Apply attention between tokens and image, both ways.

        Args:
            tokens: [R, T, dim].
            image: [R, N, dim] cells, or [B, N, dim] with `rows`.
            prompts: [R, T, dim] the tokens as they came in, which serve as their positions.
            positions: [N, dim] codes of the cells' positions.
            rows: [R] which image each ROI reads, or None where each has its own.

        Returns:
            The tokens, and the image of each ROI [R, N, dim].
        """
        if self.first:
            tokens = self.among_tokens(tokens, tokens, tokens)
        else:
            placed = tokens + prompts
            tokens = tokens + self.among_tokens(placed, placed, tokens)
        tokens = self.norms[0](tokens)
        cells = image + positions
        tokens = self.norms[1](tokens + self.to_image(tokens + prompts, cells, image, key_rows=rows))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        read = self.to_tokens(cells, tokens + prompts, tokens, query_rows=rows)
        return tokens, self.norms[3](take(image, rows) + read)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a final attention of the tokens to the image.

    Everything before the first update of the image is computed once per image, not once per ROI.

    Args:
        dim, heads, mlp_width: see `TwoWayBlock`.
        depth: number of blocks, 1 or more.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, heads, mlp_width, first=number == 0) for number in range(depth)
        )
        self.to_image = Attention(dim, dim // 2, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, prompts: Tensor, image: Tensor, positions: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `TwoWayBlock.forward`; returns tokens [R, T, dim] and image [R, N, dim]."""
        tokens = prompts
        for block in self.blocks:
            tokens, image = block(tokens, image, prompts, positions, rows)
            rows = None
        read = self.to_image(tokens + prompts, image + positions, image)
        return self.norm(tokens + read), image


def take(values: Tensor, rows: Tensor | None) -> Tensor:
    """Return the entries `rows` of `values`, or all of them for None."""
    return values if rows is None else values.index_select(0, rows)
