"""The raw head of YOLOv8, v9, v11 and, with objectness, v5 and v7."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, one_batch


class Yolo(Postprocessor):
    """One column a cell: centre x, centre y, width, height in input pixels, then class scores; [1, 4 + C, A].

    Scores are probabilities. The transposed [1, A, 4 + C] is read as well: the longer side counts the cells.
    What follows the classes (mask coefficients, key points) does no harm where `labels` are named.

    Args:
        objectness: an objectness comes before the class scores and multiplies them (YOLOv5, v7).
        options: see `Postprocessor`.
    """

    def __init__(self, objectness: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.objectness = objectness

    @property
    def _before_classes(self) -> int:
        return 5 if self.objectness else 4

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """Why an output of this shape is no such head."""
        first = self._before_classes
        known = [side for side in shape[1:] if side is not None]
        if not one_batch(shape, 3) or any(side <= first for side in known):
            return (
                f"a raw YOLO head is [1, {first} + classes, cells] or [1, cells, {first} + classes]: "
                "set extractor.postprocess.output, or take another adapter"
            )
        return self.absent_label(min(known) - first) if len(known) == 2 else ""

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of all cells; see `Postprocessor.candidates`."""
        rows = raw[0].T if raw.shape[1] <= raw.shape[2] else raw[0]
        scores, labels = self.best_class(rows[:, self._before_classes :])
        return corners(rows[:, :4]), scores * rows[:, 4] if self.objectness else scores, labels
