"""Heads of two tensors, boxes and a score for every class: DETR, RT-DETR, YOLO-NAS."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, to_pixels
from roiseg.extractor.postprocess.multi_tensor import BOXES, CLASS_SCORES


class BoxesAndScores(Postprocessor):
    """Boxes [N, 4] or [1, N, 4] in one tensor, class scores [N, C] or [1, N, C] in another.

    Args:
        form: of the boxes: centre, width and height ("cxcywh"), or corners ("xyxy").
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        activation: what makes probabilities of the scores: "sigmoid"; "softmax", the last class of which is
            "nothing"; None where they are probabilities.
        options: see `Postprocessor`; `output` names boxes and scores, in this order.

    Raises:
        UserError: another form or activation.
    """

    parts = (BOXES, CLASS_SCORES)
    free_rows = True

    def __init__(
        self,
        form: Literal["cxcywh", "xyxy"] = "cxcywh",
        normalized: bool = True,
        activation: Literal["sigmoid", "softmax"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if form not in ("cxcywh", "xyxy"):
            raise UserError(f"extractor.postprocess.form must be cxcywh or xyxy, got {form}")
        if activation not in ("sigmoid", "softmax", None):
            raise UserError(
                f"extractor.postprocess.activation must be sigmoid, softmax or null, got {activation}"
            )
        self.form, self.normalized, self.activation = form, normalized, activation

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """Why joined rows of this shape do not hold boxes and class scores."""
        if len(shape) != 2:
            return "boxes and class scores are joined to [N, 4 + classes]"
        nothing = self.activation == "softmax"
        return "" if shape[1] is None else self.absent_label(shape[1] - 4 - nothing)

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of all rows; see `Postprocessor.candidates`."""
        boxes = corners(raw[:, :4]) if self.form == "cxcywh" else raw[:, :4]
        if self.normalized:
            boxes = to_pixels(boxes, image_size)
        scores = raw[:, 4:]
        if self.activation == "sigmoid":
            scores = scores.sigmoid()
        elif self.activation == "softmax":
            scores = scores.softmax(dim=1)[:, :-1]
        return boxes, *self.best_class(scores)
