"""The raw heads of YOLOX and of YOLOv5 to YOLOv11."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, one_batch


class Yolo(Postprocessor):
    """[1, 4 + C, A]: per cell centre x, centre y, width, height in input pixels, then class scores.

    Scores are probabilities. The transposed [1, A, 4 + C] is read as well: the longer side is the cells.
    Columns after the classes (mask coefficients, keypoints) are ignored if `labels` is set.

    Args:
        objectness: a column before the class scores, which it multiplies (YOLOv5, v7).
        options: see `Postprocessor`.
    """

    def __init__(self, objectness: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.objectness = objectness

    @property
    def _before_classes(self) -> int:
        return 5 if self.objectness else 4

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """See `Postprocessor.mismatch`."""
        first = self._before_classes
        known = [side for side in shape[1:] if side is not None]
        if not one_batch(shape, 3) or any(side <= first for side in known):
            return (
                f"a raw YOLO head is [1, {first} + classes, cells] or [1, cells, {first} + classes]: "
                "set extractor.postprocess.output, or choose another postprocess"
            )
        return self.missing_label(min(known) - first) if len(known) == 2 else ""

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all cells; see `Postprocessor.candidates`."""
        rows = raw[0].T if raw.shape[1] <= raw.shape[2] else raw[0]
        scores, labels = self.best_class(rows[:, self._before_classes :])
        return corners(rows[:, :4]), scores * rows[:, 4] if self.objectness else scores, labels


class Yolox(Postprocessor):
    """One row per cell, level by level: dx, dy, log w, log h, objectness, class scores; [1, A, 5 + C].

    Offsets and sizes are in cells: centre = (d + cell index) * stride, size = exp(.) * stride. Objectness and
    class scores are probabilities, their product is the score (Ge et al., "YOLOX", 2021; its export without
    `--decode_in_inference`).

    Args:
        strides: input pixels per cell of each level, in the order of the rows.
        options: see `Postprocessor`.
    """

    def __init__(
        self, strides: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (8, 16, 32), **options: Any
    ) -> None:
        super().__init__(**options)
        self.strides = [int(stride) for stride in strides]

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """See `Postprocessor.mismatch`."""
        cells = sum(height * width for _, height, width in self._levels(image_size))
        fits = one_batch(shape, 3) and shape[1] in (cells, None) and (shape[2] is None or shape[2] >= 6)
        if not fits:
            return (
                f"a YOLOX head with strides {self.strides} at {image_size[0]}x{image_size[1]} is "
                f"[1, {cells}, 5 + classes]: set extractor.postprocess.strides or .output, "
                "or choose another postprocess"
            )
        return self.missing_label(shape[2] - 5) if shape[2] is not None else ""

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all cells; see `Postprocessor.candidates`."""
        rows = raw[0]
        cells, strides = self._cells(image_size)
        boxes = torch.cat([(rows[:, :2] + cells) * strides, rows[:, 2:4].exp() * strides], dim=1)
        scores, labels = self.best_class(rows[:, 5:])
        return corners(boxes), rows[:, 4] * scores, labels

    def _levels(self, image_size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return (stride, rows of cells, columns of cells) of each level."""
        height, width = image_size
        return [(stride, height // stride, width // stride) for stride in self.strides]

    def _cells(self, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return column and row of every cell [A, 2], and its stride [A, 1]."""
        cells, strides = [], []
        for stride, height, width in self._levels(image_size):
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cells.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
            strides.append(torch.full((height * width, 1), stride))
        return torch.cat(cells).float(), torch.cat(strides).float()
