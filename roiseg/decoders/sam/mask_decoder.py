"""Mask tokens, hypernetworks and the IoU head of Segment Anything (Kirillov et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roiseg.decoders.sam.layers import LayerNorm2d, mlp
from roiseg.decoders.sam.transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Draws several masks of what the prompts ask for and says how good each of them is.

    One IoU token and a token for each mask join the prompts; a two-way transformer lets them and the image
    read each other. The image is upscaled x4 by two transposed convolutions (dim / 4 and dim / 8 channels);
    each mask token is turned into the weights of a 1x1 convolution over it, the IoU token into the IoU of
    every mask. With dim 256, 4 masks and 1 class these are the source's 4,058,340 parameters, 3,291,264 of
    them in the transformer.

    Args:
        dim: of the tokens and the image embedding; a multiple of 8 and of 2 `heads`.
        masks: number of masks.
        classes: K, channels of a mask.
        depth, heads, mlp_width: of the transformer.
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
        """Draw masks.

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
