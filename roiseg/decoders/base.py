"""The interface every decoder keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from roiseg.common.classes import TARGET
from roiseg.common.errors import UserError


@dataclass
class DecoderOutput:
    """What a decoder returns.

    Attributes:
        logits: [R, K, h, w] in the decoder's frame.
        auxiliary: named extra outputs that some losses read.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor] = field(default_factory=dict)


class Decoder(nn.Module, ABC):
    """Labels the pixels of ROIs from the extractor's features.

    A subclass takes `in_channels` and `strides` (one number a feature layer), `num_classes` (2 or 3)
    and its own options, works for R = 0, and exports to ONNX with a free R.

    Attributes:
        frame: where the logits live: "roi", a grid stretched over the ROI, or "image", a grid over
            the whole input.
    """

    frame: ClassVar[Literal["roi", "image"]]

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        output_size: Sequence[int],
    ) -> None:
        super().__init__()
        if num_classes not in (2, 3):
            raise UserError(f"model.num_classes must be 2 or 3, got {num_classes}")
        self.in_channels = tuple(in_channels)
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.output_size = grid_size("output_size", output_size)

    @abstractmethod
    def forward(self, features: Sequence[Tensor], rois: Tensor) -> DecoderOutput:
        """Decode ROIs.

        Args:
            features: [B, C_l, H_l, W_l] a layer.
            rois: [R, 5] image index, x1, y1, x2, y2 in input pixels, sorted by image.

        Returns:
            Logits [R, K, h, w] with (h, w) = `output_size`.
        """


def grid_size(field: str, value: Sequence[int]) -> tuple[int, int]:
    """Return the option `model.<field>` as (h, w).

    Raises:
        UserError: it is not two whole numbers of 1 or more.
    """
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 2 or any(not isinstance(n, int) or n < 1 for n in numbers):
        raise UserError(f"model.{field} must be [h, w], two whole numbers of 1 or more, got {value}")
    return numbers[0], numbers[1]


def target_probability(logits: Tensor) -> Tensor:
    """[R, K, h, w] logits -> [R, h, w] probability of the target class."""
    return logits.float().softmax(dim=1)[:, TARGET]
