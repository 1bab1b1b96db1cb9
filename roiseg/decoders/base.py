"""The interface of every decoder, and decoding in chunks of ROIs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypedDict

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from roiseg.common.errors import UserError
from roiseg.decoders.layers.extra_inputs import DetailBranch, Film
from roiseg.extractor.projection import Projection
from roiseg.geometry.roi_align import cell_cover, resample

Frame = Literal["roi", "image"]
NumClasses = Annotated[int, Field(ge=2, le=3)]


@dataclass(frozen=True)
class Context:
    """Optional inputs of a decoder besides features and ROIs."""

    image: Tensor | None = None  # [B, 3, H, W] the detector's input tensor, for the detail branch
    # [B] size of an input pixel, in micrometres or in original pixels, for FiLM
    pixel_size: Tensor | None = None
    # [R, K, h, w] class probabilities of an earlier decoder, in this decoder's frame
    prior: Tensor | None = None
    # [R, P, 3] clicks: x, y in input pixels, and 1 on the target, 0 off it, -1 no click
    points: Tensor | None = None


@dataclass(frozen=True)
class DecoderOutput:
    """What a decoder returns."""

    logits: Tensor  # [R, K, h, w] in the decoder's frame
    auxiliary: dict[str, Tensor] = field(default_factory=dict)  # named extra outputs that some losses read
    # [R, h, w] which share of each cell lies in the ROI; None in the roi frame (all of it)
    inside: Tensor | None = None


class DecoderOptions(TypedDict, total=False):
    """Options every decoder takes.

    film: features are modulated by the pixel size relative to this base size; None: they are not.
    detail: width of a branch that reads the image at the logits' resolution; None: no such branch.
    """

    film: PositiveFloat | None
    detail: PositiveInt | None


class Decoder(nn.Module, ABC):
    """Labels the pixels of ROIs from the extractor's features.

    A subclass implements `decode`, works for R = 0, and exports to ONNX with a dynamic R.

    Attributes:
        frame: the area that the logits cover: "roi", a grid stretched over the ROI, or "image", a grid over
            the whole input.
        output_size: (h, w) of the logits.
        provides: names of the auxiliary outputs, given at least in training.
        needs: those that a loss term must read, because they alone train a part of the decoder.
        prompts: which of `context.prior` and `context.points` it reads.
        fixed_size: its maps have the size of the input in training, whatever the size of the features.
        projection: reduces features that still have all channels of their tensors to `in_channels`; None: the
            decoder reads all channels.

    Args:
        in_channels, strides: one number per feature layer; strides in input pixels per cell.
        image_size: (H, W) of the input in pixels.
        num_classes: 3, or 2 without the non-target class.
    """

    provides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    fixed_size: bool = False

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        image_size: Sequence[int],
        num_classes: NumClasses,
        frame: Frame,
        output_size: Sequence[int],
        film: PositiveFloat | None = None,
        detail: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.projection: Projection | None = None
        self.in_channels = tuple(in_channels)
        self.strides = tuple(strides)
        self.image_size = grid_size(image_size)
        self.num_classes = num_classes
        self.frame: Frame = frame
        self.output_size = grid_size(output_size)
        self.film = None if film is None else Film(self.in_channels, film)
        self.detail = None if detail is None else DetailBranch(num_classes, detail)

    def forward(
        self, features: Sequence[Tensor], rois: Tensor, context: Context | None = None
    ) -> DecoderOutput:
        """Decode ROIs.

        Args:
            features: [B, C_l, H_l, W_l] per layer.
            rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.
            context: further inputs; `film` needs the pixel size, `detail` the image.

        Returns:
            Logits [R, K, h, w] with (h, w) = `output_size`.

        Raises:
            ValueError: `context` lacks an input that an option of this decoder needs.
        """
        context = context or Context()
        if self.projection is not None:
            features = self.projection(features)
        if self.film is not None:
            features = self.film(features, required(context.pixel_size, "pixel_size", "film"))
        output = self.decode(features, rois, context)
        if self.detail is not None:
            image = required(context.image, "image", "detail")
            windows, rows = (rois, None) if self.frame == "roi" else (self._images(image), rois[:, 0].long())
            output = replace(output, logits=self.detail(output.logits, image, windows, rows))
        return output if self.frame == "roi" else replace(output, inside=self._inside(rois))

    @abstractmethod
    def decode(self, features: Sequence[Tensor], rois: Tensor, context: Context) -> DecoderOutput:
        """Decode ROIs; see `forward`."""

    @property
    def context_inputs(self) -> tuple[str, ...]:
        """Return which of `image` and `pixel_size` this decoder, or one within it, needs."""
        kinds = {type(module) for module in self.modules()}
        wanted = {"image": DetailBranch, "pixel_size": Film}
        return tuple(name for name, kind in wanted.items() if kind in kinds)

    @property
    def any_size(self) -> bool:
        """Return whether it also decodes features of inputs that are larger or smaller than in training."""
        parts = [part for part in self.modules() if isinstance(part, Decoder)]
        return all(part.frame == "roi" and not part.fixed_size for part in parts) and not any(
            max(self.strides) % stride for stride in self.strides
        )

    def extents(self, rois: Tensor) -> Tensor:
        """Return the boxes [R, 4], in input pixels, that the logits of ROIs [R, 5] cover."""
        if self.frame == "roi":
            return rois[:, 1:]
        height, width = self.image_size
        return rois.new_tensor([0, 0, width, height]).expand(rois.shape[0], 4)

    def roi_logits(self, logits: Tensor, rois: Tensor, size: tuple[int, int]) -> Tensor:
        """Read logits [R, K, h, w] of this decoder on a grid of `size` (h, w) over each ROI."""
        height, width = self.output_size
        if self.frame == "roi" and size == (height, width):
            return logits
        windows = self.extents(rois).float()
        scale = windows.new_tensor([width, height]) / (windows[:, 2:] - windows[:, :2]).clamp(min=1e-6)
        boxes = (rois[:, 1:].float() - windows[:, :2].repeat(1, 2)) * scale.repeat(1, 2)
        samples = max(1, math.ceil(max(height / size[0], width / size[1])))
        return resample(logits, boxes, size, samples)

    def _images(self, image: Tensor) -> Tensor:
        """Return a window [B, 5] over each image."""
        index = torch.arange(image.shape[0], dtype=torch.float32, device=image.device)[:, None]
        return torch.cat([index, self.extents(index)], dim=1)

    def _inside(self, rois: Tensor) -> Tensor:
        height, width = self.output_size
        cell_y, cell_x = self.image_size[0] / height, self.image_size[1] / width
        columns = cell_cover(rois[:, 1] / cell_x, rois[:, 3] / cell_x, width)
        rows = cell_cover(rois[:, 2] / cell_y, rois[:, 4] / cell_y, height)
        return rows[:, :, None] * columns[:, None, :]


def required(value: Tensor | None, name: str, option: str) -> Tensor:
    """Return `value`.

    Raises:
        ValueError: it is missing though the decoder's `option` needs it.
    """
    if value is None:
        raise ValueError(f"a decoder with `{option}` needs context.{name}")
    return value


def grid_size(value: Sequence[int]) -> tuple[int, int]:
    """Return a size from a configuration as (h, w)."""
    height, width = value
    return height, width


def require_multiple(name: str, value: int, *divisors: int) -> None:
    """Raise a UserError if a number, called `name` in the message, is not a multiple of each divisor."""
    for divisor in divisors:
        if value % divisor:
            raise UserError(f"{name} must be a multiple of {divisor}, got {value}")


def doublings(
    grid: tuple[int, int], output_size: tuple[int, int], name: str = "model.roi_size", least: int = 0
) -> int:
    """Return the number of doublings from a grid (h, w), called `name` in messages, to another."""
    possible = {(grid[0] << steps, grid[1] << steps): steps for steps in range(least, 8)}
    if output_size not in possible:
        reachable = ", ".join(str(list(size)) for size in list(possible)[:4])
        raise UserError(
            f"model.output_size {list(output_size)} is not {name} {list(grid)} doubled some times; choose "
            f"one of {reachable}, or another {name}"
        )
    return possible[output_size]


def check_part(name: str, part: Decoder, frame: Frame, num_classes: int, outputs: bool = False) -> None:
    """Check that a decoder fits as the part `model.<name>` of another, which may pass on all its outputs."""
    if part.frame != frame:
        raise UserError(
            f"model.{name} decodes in the {part.frame} frame: take a decoder in the {frame} frame"
        )
    if part.num_classes != num_classes:
        raise UserError(
            f"model.{name}.num_classes is {part.num_classes}, it must be model.num_classes, {num_classes}"
        )
    if part.needs and not outputs:
        raise UserError(
            f"model.{name} is trained through its output `{part.needs[0]}`, which this model does not pass "
            "on: use a decoder that is trained through its logits"
        )


def decode_in_chunks(
    decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context, max_rois: int
) -> DecoderOutput:
    """Return `decoder(features, rois, context)`, with the memory of `max_rois` ROIs plus the output's.

    Losses and metrics read the whole output, so that no mean changes. If gradients are needed, each chunk
    is decoded again in the backward pass (Chen et al., Training Deep Nets with Sublinear Memory Cost,
    2016), with the same random numbers and therefore the same gradients. Only a decoder's random values
    (dropout, PointRend's training points) are sampled chunk by chunk.

    Args:
        decoder: works ROI by ROI, and so does each of its auxiliary outputs.
        features: [B, C_l, H_l, W_l] per layer.
        rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.
        max_rois: 1 or more.
    """
    if len(rois) <= max_rois:
        return decoder(features, rois, context)
    parts = []
    for start in range(0, len(rois), max_rois):
        given = _part(features, rois, context, slice(start, start + max_rois))
        wanted = torch.is_grad_enabled()
        parts.append(checkpoint(decoder, *given, use_reentrant=False) if wanted else decoder(*given))
    return _joined(parts)


def _part(
    features: Sequence[Tensor], rois: Tensor, context: Context, rows: slice
) -> tuple[tuple[Tensor, ...], Tensor, Context]:
    """Select ROIs and their images, because decoders compute on every image of the batch."""
    rois = rois[rows]
    first, last = int(rois[0, 0]), int(rois[-1, 0])
    images = slice(first, last + 1)
    moved = torch.cat([rois[:, :1] - first, rois[:, 1:]], dim=1)
    kept = {"image": images, "pixel_size": images, "prior": rows, "points": rows}
    told = {name: getattr(context, name) for name in kept}
    context = Context(**{name: None if value is None else value[kept[name]] for name, value in told.items()})
    return tuple(feature[images] for feature in features), moved, context


def _joined(parts: Sequence[DecoderOutput]) -> DecoderOutput:
    auxiliary = {name: torch.cat([part.auxiliary[name] for part in parts]) for name in parts[0].auxiliary}
    inside = [part.inside for part in parts if part.inside is not None]
    return DecoderOutput(
        torch.cat([part.logits for part in parts]), auxiliary, torch.cat(inside) if inside else None
    )
