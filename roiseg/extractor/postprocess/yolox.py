"""The raw head of YOLOX, and of the embedded tiny detector, which has one level of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, one_batch


class Yolox(Postprocessor):
    """One row a cell, all levels in turn: dx, dy, log w, log h, objectness, class scores; [1, A, 5 + C].

    Offsets and sizes are in cells: centre = (d + cell index) * stride, size = exp(.) * stride. Objectness and
    class scores are probabilities, their product is the score (Ge et al., "YOLOX", 2021; its export without
    `--decode_in_inference`).

    Args:
        strides: input pixels per cell of each level, in the order of the rows.
        options: see `Postprocessor`.
    """

    def __init__(self, strides: Sequence[int] = (8, 16, 32), **options: Any) -> None:
        super().__init__(**options)
        self.strides = [int(stride) for stride in strides]
        if not self.strides or min(self.strides) < 1:
            raise UserError(
                f"extractor.postprocess.strides must be positive numbers of pixels, got {list(strides)}"
            )

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """Why an output of this shape is no such head."""
        cells = sum(height * width for _, height, width in self._levels(image_size))
        fits = one_batch(shape, 3) and shape[1] in (cells, None) and (shape[2] is None or shape[2] >= 6)
        if not fits:
            return (
                f"a YOLOX head with strides {self.strides} at {image_size[0]}x{image_size[1]} is "
                f"[1, {cells}, 5 + classes]: set extractor.postprocess.strides or .output, or another adapter"
            )
        return self.absent_label(shape[2] - 5) if shape[2] is not None else ""

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of all cells; see `Postprocessor.candidates`."""
        rows = raw[0]
        cells, strides = self._cells(image_size)
        boxes = torch.cat([(rows[:, :2] + cells) * strides, rows[:, 2:4].exp() * strides], dim=1)
        scores, labels = self.best_class(rows[:, 5:])
        return corners(boxes), rows[:, 4] * scores, labels

    def _levels(self, image_size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(stride, rows of cells, columns of cells) of each level."""
        height, width = image_size
        return [(stride, height // stride, width // stride) for stride in self.strides]

    def _cells(self, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Column and row of every cell [A, 2], and its stride [A, 1]."""
        cells, strides = [], []
        for stride, height, width in self._levels(image_size):
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cells.append(torch.stack([x, y], dim=-1).reshape(-1, 2))
            strides.append(torch.full((height * width, 1), stride))
        return torch.cat(cells).float(), torch.cat(strides).float()
