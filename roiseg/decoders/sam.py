"""The decoder of Segment Anything (Kirillov et al., 2023): prompts, mask tokens, hypernetworks, IoU head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from roiseg.common.errors import UserError
from roiseg.common.types import Size
from roiseg.decoders.base import (
    Context,
    DecoderOptions,
    DecoderOutput,
    Frame,
    NumClasses,
    grid_size,
    require_multiple,
    required,
)
from roiseg.decoders.layers.image_decoder import ImageDecoder
from roiseg.decoders.layers.transformer import LayerNorm2d, PatchEmbedding, TwoWayTransformer, mlp

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


class MaskDecoder(nn.Module):
    """Predicts several masks for the prompts and the IoU of each.

    One IoU token and a token for each mask join the prompts; a two-way transformer applies attention
    between them and the image. Two transposed convolutions (dim / 4, dim / 8 channels) upscale the image x4;
    each mask token is turned into the weights of a 1x1 convolution over it, the IoU token into the IoU of
    every mask. With dim 256, 4 masks and 1 class these are the source's 4,058,340 parameters, 3,291,264 of
    them in the transformer.

    Args:
        dim: of the tokens and the image embedding; a multiple of 8 and of 2 `heads`.
        masks: number of masks.
        classes: K, channels of a mask.
    """

    def __init__(self, dim: int, masks: int, classes: int, depth: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.classes = classes
        self.iou_token = nn.Parameter(torch.randn(1, dim))
        self.mask_tokens = nn.Parameter(torch.randn(masks, dim))
        self.transformer = TwoWayTransformer(dim, depth, heads, mlp_width)
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.hypernetworks = nn.ModuleList(mlp(dim, dim, dim // 8 * classes) for _ in range(masks))
        self.iou_head = mlp(dim, dim, masks)

    def forward(
        self, embedding: Tensor, positions: Tensor, prompts: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Predict masks.

        Args:
            embedding: [R, dim, h, w], or [B, dim, h, w] with `rows`.
            positions: [h * w, dim] codes of the cells' positions.
            prompts: [R, P, dim].
            rows: [R] which embedding each ROI reads, or None where each has its own.

        Returns:
            Logits [R, M, K, 4h, 4w], and [R, M] the IoU of each, 0..1 (a sigmoid, as in SAM 2.1).
        """
        count, size = len(self.mask_tokens), embedding.shape[2:]
        own = torch.cat([self.iou_token, self.mask_tokens]).expand(prompts.shape[0], -1, -1)
        # not flatten(2).transpose(1, 2): ONNX Runtime fuses that with the next product and fails for R = 0
        cells = embedding.permute(0, 2, 3, 1).flatten(1, 2)
        tokens, cells = self.transformer(torch.cat([own, prompts], dim=1), cells, positions, rows)
        upscaled = self.upscale(cells.transpose(1, 2).unflatten(2, size))
        kernels = torch.stack([net(tokens[:, 1 + m]) for m, net in enumerate(self.hypernetworks)], dim=1)
        kernels = kernels.unflatten(2, (self.classes, -1)).flatten(1, 2)  # [R, M K, dim / 8]
        masks = (kernels @ upscaled.flatten(2)).unflatten(1, (count, self.classes))
        return masks.unflatten(3, upscaled.shape[2:]), self.iou_head(tokens[:, 0]).float().sigmoid()


class SamDecoder(ImageDecoder):
    """The mask decoder of Segment Anything (Kirillov et al., 2023) on a detector's features.

    The features become one embedding of the image, which all ROIs share; a ROI's corners and clicks are
    tokens, and so are the masks to predict (`MaskDecoder`). There are several because a prompt may be
    ambiguous; the one with the highest predicted IoU is used. It is trained through the outputs `candidates`
    and `iou`: the best candidate is trained (`MultimaskMinimum`), and its score (`IouScore`).

    Differs from the source:
      - The image embedding is a `PatchEmbedding` of frozen features, in place of the ViT and its neck. The
        source adds a learned vector where there is no mask prompt; here that is the convolution's bias.
      - Masks have K classes (a softmax), not one (a sigmoid).
      - All mask tokens compete. The source keeps one of its 4 for prompts that leave no doubt and 3 for
        single clicks; a ROI here is always a prompt, with or without clicks, and one of either kind.
      - `stride` of the embedding is 16 in the source and by default; the map's is a quarter of it.

    Args:
        frame, output_size: see `ImageDecoder`; the map's stride is a quarter of `stride`.
        stride: input pixels per cell of the embedding; a multiple of 4; None: the finest layer's.
        dim: width of embedding and tokens; a multiple of 8 and of 2 `heads`.
        candidates: number of masks to choose from.
        prior: also read the probabilities of an earlier decoder (`CascadeDecoder`); image frame only.
        **shared: see `DecoderOptions`; `detail` is rejected.

    Raises:
        UserError: sizes that do not divide each other, or an option that cannot work here.
    """

    provides = ("candidates", "iou")
    needs = ("candidates", "iou")
    fixed_size = True

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses = 3,
        frame: Frame = "image",
        output_size: Size = (56, 56),
        stride: PositiveInt | None = 16,
        dim: PositiveInt = 256,
        depth: PositiveInt = 2,
        heads: PositiveInt = 8,
        mlp_width: PositiveInt = 2048,
        candidates: PositiveInt = 4,
        prior: bool = False,
        **shared: Unpack[DecoderOptions],
    ) -> None:
        embedding_stride = min(strides) if stride is None else stride
        require_multiple("model.stride, since the map is 4 times finer,", embedding_stride, 4)
        height, width = grid_size(image_size)
        for side in (height, width):
            require_multiple(
                f"the sides of the input {height}x{width}, for model.stride,", side, embedding_stride
            )
        require_multiple(f"model.dim, for model.heads={heads},", dim, 8, 2 * heads)
        if prior and frame != "image":
            raise UserError("model.prior is read on the embedding of the whole image: set model.frame=image")
        if shared.get("detail") is not None:
            raise UserError(
                "model.detail would refine the chosen mask only, not the candidates that are trained: "
                "set it to null and give the extractor a finer layer (extractor.layers)"
            )
        map_stride = embedding_stride // 4
        super().__init__(
            in_channels, strides, image_size, num_classes, map_stride, frame, output_size, **shared
        )
        self.embedding_size = (height // embedding_stride, width // embedding_stride)
        self.embed = PatchEmbedding(in_channels, strides, dim, embedding_stride)
        self.encode = PromptEncoder(dim, self.image_size)
        self.read_prior = PriorEncoder(num_classes, dim, self.embedding_size) if prior else None
        self.masks = MaskDecoder(dim, candidates, num_classes, depth, heads, mlp_width)
        self.prompts = ("points", "prior") if prior else ("points",)

    def decode_map(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `ImageDecoder`; also gives `candidates` [R, M, K, *output_size] and their `iou` [R, M]."""
        embedding = self.embed(features)
        rows: Tensor | None = rois[:, 0].long()
        if self.read_prior is not None:
            prior = required(context.prior, "prior", "prior")
            embedding, rows = embedding[rows] + self.read_prior(prior.to(embedding.dtype)), None
        prompts = self.encode(rois[:, 1:], context.points)
        positions = self.encode.positions.grid(*self.embedding_size).to(prompts.dtype)
        candidates, iou = self.masks(embedding, positions, prompts, rows)
        best = iou.argmax(dim=1)[:, None, None, None, None].expand(-1, 1, *candidates.shape[2:])
        return DecoderOutput(candidates.gather(1, best)[:, 0], {"candidates": candidates, "iou": iou})
