"""Finished boxes in several tensors, as EfficientNMS, YOLO-NAS's batch format and torchvision give them."""

from __future__ import annotations

from typing import Any

from roiseg.extractor.postprocess.multi_tensor import BOXES, COUNT, LABELS, SCORES
from roiseg.extractor.postprocess.rows import Rows


class EfficientNms(Rows):
    """Boxes (corners) [1, N, 4], scores [1, N] and labels [1, N], or without the 1, and how many of N count.

    Args:
        counted: the file has the number of boxes as well; False: all rows count.
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        options: see `Postprocessor`; `output` names number (if counted), boxes, scores and labels.
    """

    def __init__(self, counted: bool = True, normalized: bool = False, **options: Any) -> None:
        self.parts = (*([COUNT] if counted else []), BOXES, SCORES, LABELS)
        super().__init__(["x1", "y1", "x2", "y2", "score", "label"], normalized, **options)
