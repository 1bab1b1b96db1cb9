"""Outputs that hold finished boxes, one a row: exports with NMS inside, YOLOv10, RT-DETR and their like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roiseg.common.errors import UserError, closest_matches
from roiseg.extractor.postprocess.base import Postprocessor, Shape, corners, one_batch, to_pixels

_FORMATS = (("x1", "y1", "x2", "y2"), ("cx", "cy", "w", "h"), ("x1", "y1", "w", "h"))
_OTHERS = ("score", "label", "objectness", "ignored")
_NAMES = tuple(dict.fromkeys(name for names in (*_FORMATS, _OTHERS) for name in names))


class Rows(Postprocessor):
    """One box a row, [N, K] or [1, N, K], any number of rows.

    Args:
        columns: what each of the K columns holds: the four of a box (`x1, y1, x2, y2`, `cx, cy, w, h` or
            `x1, y1, w, h`), `score`, and where there is one `label`, `objectness` (multiplies the score);
            `ignored` for anything else. Without `label` all rows are of class 0.
        normalized: boxes are in 0..1 of the input's width and height, not in its pixels.
        options: see `Postprocessor`; NMS is off unless `iou_threshold` is given.

    Raises:
        UserError: columns of which no box and score can be made.
    """

    free_rows = True

    def __init__(
        self,
        columns: Sequence[str],
        normalized: bool = False,
        iou_threshold: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(iou_threshold=iou_threshold, **options)
        self.columns = [str(name) for name in columns]
        self.normalized = normalized
        if unknown := [name for name in self.columns if name not in _NAMES]:
            close = ", ".join(closest_matches(unknown[0], _NAMES) or _NAMES)
            raise UserError(
                f"extractor.postprocess.columns: `{unknown[0]}` is not known (nearest: {close}); "
                "columns of no use are called ignored"
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
        """Why an output of this shape does not hold such rows."""
        if (len(shape) == 2 or one_batch(shape, 3)) and shape[-1] in (len(self.columns), None):
            return ""
        return (
            f"extractor.postprocess.columns names {len(self.columns)} columns, [N, {len(self.columns)}] or "
            f"[1, N, {len(self.columns)}]: set columns or extractor.postprocess.output"
        )

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of all rows; see `Postprocessor.candidates`."""
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
