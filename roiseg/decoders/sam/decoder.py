"""Decoder `sam`: the ROI as a prompt of a Segment Anything mask decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import Unpack

from roiseg.common.errors import UserError
from roiseg.decoders.base import Context, DecoderOutput, Frame, SharedOptions, grid_size, required
from roiseg.decoders.image_decoder import ImageDecoder
from roiseg.decoders.sam.layers import PatchEmbedding
from roiseg.decoders.sam.mask_decoder import MaskDecoder
from roiseg.decoders.sam.prompt_encoder import PriorEncoder, PromptEncoder


class SamDecoder(ImageDecoder):
    """The mask decoder of Segment Anything (Kirillov et al., 2023) on a detector's features.

    The features become one embedding of the image, which all ROIs share; a ROI's corners and clicks are
    tokens, and so are the masks asked for (`MaskDecoder`). Several masks are drawn because a prompt may be
    ambiguous, and the one of the highest predicted IoU is taken. It learns by the two outputs `candidates`
    and `iou`: the best candidate is trained (`CandidateMinimum`), and its score (`IouScore`).

    Differs from the source:
      - The image embedding is a `PatchEmbedding` of frozen features, in place of the ViT and its neck. The
        source adds a learned vector where there is no mask prompt; here that is the convolution's bias.
      - Masks have K classes (a softmax), not one (a sigmoid).
      - All mask tokens compete. The source keeps one of its 4 for prompts that leave no doubt and 3 for
        single clicks; a ROI here is always a prompt, with or without clicks, and one of either kind.
      - `stride` of the embedding is 16 in the source and by default; the map's is a quarter of it.

    Args:
        in_channels, strides, image_size, num_classes: see `Decoder`.
        frame, output_size: see `ImageDecoder`; the map's stride is a quarter of `stride`.
        stride: input pixels per cell of the embedding; a multiple of 4; None: the finest layer's.
        dim: width of embedding and tokens.
        depth, heads, mlp_width: of the two-way transformer.
        candidates: number of masks to choose from.
        prior: read the probabilities of an earlier decoder, too (`CascadeDecoder`); image frame only.
        **shared: see `SharedOptions`; `detail` is refused.

    Raises:
        UserError: sizes that do not divide each other, or an option that cannot work here.
    """

    provides = ("candidates", "iou")
    needs = ("candidates", "iou")

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: int = 3,
        frame: Frame = "image",
        output_size: Sequence[int] = (56, 56),
        stride: int | None = 16,
        dim: int = 256,
        depth: int = 2,
        heads: int = 8,
        mlp_width: int = 2048,
        candidates: int = 4,
        prior: bool = False,
        **shared: Unpack[SharedOptions],
    ) -> None:
        embedding_stride = min(strides) if stride is None else stride
        if embedding_stride < 4 or embedding_stride % 4:
            raise UserError(
                f"model.stride must be a multiple of 4, the map is 4 times finer, got {embedding_stride}"
            )
        height, width = grid_size("image_size", image_size)
        if height % embedding_stride or width % embedding_stride:
            raise UserError(f"model.stride {embedding_stride} does not divide the input {height}x{width}")
        if min(depth, heads, mlp_width, candidates) < 1:
            raise UserError(
                "model: depth, heads, mlp_width and candidates must be 1 or more, "
                f"got {depth}, {heads}, {mlp_width} and {candidates}"
            )
        if dim < 1 or dim % 8 or dim % (2 * heads):
            raise UserError(f"model.dim must be a multiple of 8 and of 2 x heads ({2 * heads}), got {dim}")
        if prior and frame != "image":
            raise UserError("model.prior is drawn on the embedding of the whole image: set model.frame=image")
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

    def draw(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """See `ImageDecoder.draw`; `candidates` [R, M, K, *output_size] and their predicted `iou` [R, M]."""
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
