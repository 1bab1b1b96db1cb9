"""Outputs that hold decoded boxes: rows after NMS, or boxes and class scores (DETR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from roiseg.common.errors import UserError, closest_matches
from roiseg.common.types import PositiveShare
from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, one_batch, to_pixels
from roiseg.extractor.postprocess.output import BOXES, CLASS_SCORES, COUNT, LABELS, SCORES

_FORMATS = (("x1", "y1", "x2", "y2"), ("cx", "cy", "w", "h"), ("x1", "y1", "w", "h"))
_OTHERS = ("score", "label", "objectness", "ignored")
_NAMES = tuple(dict.fromkeys(name for names in (*_FORMATS, _OTHERS) for name in names))


class Rows(Postprocessor):
    """One box per row, [N, K] or [1, N, K], any number of rows.

    Args:
        columns: names of the K columns: a box (`x1, y1, x2, y2`, `cx, cy, w, h` or `x1, y1, w, h`), `score`,
            optionally `label` and `objectness` (multiplies the score); `ignored` for any other. Without
            `label` all rows are class 0.
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        options: see `Postprocessor`; NMS is off unless `iou_threshold` is given.

    Raises:
        UserError: the columns do not name a box and a score.
    """

    free_rows = True

    def __init__(
        self,
        columns: Sequence[str],
        normalized: bool = False,
        iou_threshold: PositiveShare | None = None,
        **options: Any,
    ) -> None:
        super().__init__(iou_threshold=iou_threshold, **options)
        self.columns = [str(name) for name in columns]
        self.normalized = normalized
        if unknown := [name for name in self.columns if name not in _NAMES]:
            close = ", ".join(closest_matches(unknown[0], _NAMES) or _NAMES)
            raise UserError(
                f"extractor.postprocess.columns: `{unknown[0]}` is not known (nearest: {close}); "
                "call unused columns ignored"
            )
        once = [name for name in self.columns if name != "ignored"]
        places = {name for name in once if name not in _OTHERS}
        complete = any(places == set(names) for names in _FORMATS) and "score" in once
        if not complete or len(once) != len(set(once)):
            raise UserError(
                "extractor.postprocess.columns must name score and the four of one kind of box (x1 y1 x2 y2, "
                f"cx cy w h, or x1 y1 w h), each once, got {self.columns}"
            )

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """See `Postprocessor.mismatch`."""
        if (len(shape) == 2 or one_batch(shape, 3)) and shape[-1] in (len(self.columns), None):
            return ""
        return (
            f"extractor.postprocess.columns names {len(self.columns)} columns, [N, {len(self.columns)}] or "
            f"[1, N, {len(self.columns)}]: set columns or extractor.postprocess.output"
        )

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all rows; see `Postprocessor.candidates`."""
        rows = raw[0] if raw.ndim == 3 else raw
        boxes = self._boxes(rows)
        if self.normalized:
            boxes = to_pixels(boxes, image_size)
        scores = self._column(rows, "score")
        if "objectness" in self.columns:
            scores = scores * self._column(rows, "objectness")
        if "label" not in self.columns:
            return boxes, scores, torch.zeros_like(scores).long()
        labels = self._column(rows, "label").round().long()
        if self.labels is not None:
            wanted = (labels[:, None] == torch.tensor(self.labels)).any(dim=1)
            scores = torch.where(wanted, scores, 0.0)
        return boxes, scores, labels

    def _boxes(self, rows: Tensor) -> Tensor:
        names = next(names for names in _FORMATS if set(names) <= set(self.columns))
        boxes = torch.stack([self._column(rows, name) for name in names], dim=1)
        if names[0] == "cx":
            return corners(boxes)
        return boxes if names[2] == "x2" else torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)

    def _column(self, rows: Tensor, name: str) -> Tensor:
        return rows[:, self.columns.index(name)]


class EfficientNms(Rows):
    """Boxes (corners) [1, N, 4], scores [1, N], labels [1, N] and the number of valid rows, batch optional.

    Args:
        counted: the file has the number of valid rows; False: all rows are valid.
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        options: see `Postprocessor`; `output` names number (if counted), boxes, scores and labels.
    """

    def __init__(self, counted: bool = True, normalized: bool = False, **options: Any) -> None:
        self.parts = (*([COUNT] if counted else []), BOXES, SCORES, LABELS)
        super().__init__(["x1", "y1", "x2", "y2", "score", "label"], normalized, **options)


class BoxesAndScores(Postprocessor):
    """Boxes [N, 4] or [1, N, 4] in one tensor, class scores [N, C] or [1, N, C] in another.

    Args:
        form: of the boxes: centre, width and height ("cxcywh"), or corners ("xyxy").
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        activation: applied to the scores: "sigmoid", "softmax" (the last class is background), or None for
            probabilities.
        options: see `Postprocessor`; `output` names boxes and scores, in this order.
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
        self.form, self.normalized, self.activation = form, normalized, activation

    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """See `Postprocessor.mismatch`."""
        if len(shape) != 2:
            return "boxes and class scores are joined to [N, 4 + classes]"
        nothing = self.activation == "softmax"
        return "" if shape[1] is None else self.missing_label(shape[1] - 4 - nothing)

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all rows; see `Postprocessor.candidates`."""
        boxes = corners(raw[:, :4]) if self.form == "cxcywh" else raw[:, :4]
        if self.normalized:
            boxes = to_pixels(boxes, image_size)
        scores = raw[:, 4:]
        if self.activation == "sigmoid":
            scores = scores.sigmoid()
        elif self.activation == "softmax":
            scores = scores.softmax(dim=1)[:, :-1]
        return boxes, *self.best_class(scores)
