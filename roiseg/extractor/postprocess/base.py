"""Turn the raw output of a detector's head into boxes: thresholds, NMS, clipping."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.types import PositiveShare, ShareBelowOne
from roiseg.extractor.postprocess.output import Part, Shape
from roiseg.geometry.boxes import Boxes, clip, nms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detections:
    """The boxes that a detector finds in one image, sorted by descending score."""

    boxes: Boxes  # [N, 4] x1, y1, x2, y2; from a Postprocessor: input pixels, clipped to the input
    scores: NDArray[np.float32]  # [N] 0..1
    labels: NDArray[np.int64]  # [N] the detector's own class numbers

    def __len__(self) -> int:
        return len(self.boxes)


class Postprocessor(ABC):
    """Reads boxes from the raw output of a detector's head.

    Args:
        output: name of the tensor that holds the boxes (it may be an inner one), or names of all `parts`;
            None: the first output whose shape fits.
        labels: class numbers of the detector to keep; None: all.
        score_threshold: boxes with this score or less are dropped.
        iou_threshold: greedy NMS across the wanted classes; None: no NMS.
        max_detections: maximum number of boxes, those with the highest scores.

    Attributes:
        parts: the tensors that are joined for `decode`; empty: it reads a single tensor.
        free_rows: the number of rows in the output differs between images.

    Raises:
        UserError: `output` does not name all parts.
    """

    parts: tuple[Part, ...] = ()
    free_rows = False

    def __init__(
        self,
        output: str | Sequence[str] | None = None,
        labels: Annotated[Sequence[NonNegativeInt], Field(min_length=1)] | None = (0,),
        score_threshold: ShareBelowOne = 0.25,
        iou_threshold: PositiveShare | None = 0.45,
        max_detections: PositiveInt = 100,
    ) -> None:
        named = [output] if isinstance(output, (str, int)) else output or []
        self.outputs = [str(name) for name in named]
        wanted = [part.holds for part in self.parts] or ["boxes"]
        if self.outputs and len(self.outputs) != len(wanted):
            raise UserError(
                f"extractor.postprocess.output must name {len(wanted)} ({', '.join(wanted)}), got {output}"
            )
        self.labels = None if labels is None else [int(label) for label in labels]
        self.score_threshold = float(score_threshold)
        self.iou_threshold = None if iou_threshold is None else float(iou_threshold)
        self.max_detections = int(max_detections)
        self.plausibility = Plausibility()

    def __call__(self, raw: NDArray[np.generic], image_size: tuple[int, int]) -> Detections:
        """Read the boxes of one image.

        Args:
            raw: the head's output.
            image_size: (H, W) of the detector's input in pixels.

        Raises:
            UserError: the output has another shape, or it contains nan.
        """
        if problem := self.mismatch(raw.shape, image_size):
            raise UserError(f"extractor.postprocess: the detector's output is {list(raw.shape)}, {problem}")
        if np.isnan(raw).any():  # comparisons with nan are false: such boxes would be dropped silently
            raise UserError("the detector's output contains nan: its weights or its arithmetic are damaged")
        decoded = self.decode(torch.from_numpy(raw.astype(np.float32)), image_size)
        some = ~(decoded[1] <= self.score_threshold)
        if warning := self.plausibility.count(decoded[0][some], decoded[1][some], image_size):
            log.warning(warning)
        boxes, scores, labels = (tensor.numpy() for tensor in _with_area(*decoded, image_size))
        above = np.flatnonzero(scores > self.score_threshold)
        kept = above[nms(boxes[above], scores[above], self.iou_threshold, self.max_detections)]
        return Detections(clip(boxes[kept], image_size), scores[kept], labels[kept].astype(np.int64))

    def candidates(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return all boxes of the output, before thresholds and NMS; tensor operations only, for the export.

        Args:
            raw: the head's output of one image, float32, of a shape that fits.
            image_size: (H, W) of the detector's input in pixels.

        Returns:
            Boxes [A, 4] x1, y1, x2, y2 in input pixels, not clipped; scores [A], 0 where the class is not
            wanted or the box lies outside the input; labels [A].
        """
        return _with_area(*self.decode(raw, image_size), image_size)

    def label_warning(self, category_id: int) -> str:
        """Return a warning if `labels` is the person class but the category is another; else empty.

        The person is class 0, or 1 where classes are numbered like COCO's categories.
        """
        person = self.labels[0] if self.labels in ([0], [1]) else None
        if person is None or category_id in (person, person + 1):
            return ""
        return (
            f"extractor.postprocess.labels is [{person}], in most detectors the person, and the category is "
            f"{category_id}: set extractor.postprocess.labels to the detector's class for that category, or "
            "to null if it has no other class"
        )

    @abstractmethod
    def mismatch(self, shape: Shape, image_size: tuple[int, int]) -> str:
        """Explain why an output of this shape cannot be read; empty if it can."""

    @abstractmethod
    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of all rows; see `candidates`."""

    def best_class(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest score [A] among the wanted classes of scores [A, C], and its label [A]."""
        wanted = range(scores.shape[1]) if self.labels is None else self.labels
        best, index = scores[:, list(wanted)].max(dim=1)
        return best, torch.tensor(list(wanted))[index]

    def missing_label(self, classes: int) -> str:
        """Explain which wanted label a head of `classes` classes does not have; empty if it has all."""
        missing = [label for label in self.labels or [] if label >= classes]
        if not missing:
            return ""
        return f"which are {classes} classes from 0 on: extractor.postprocess.labels names {missing[0]}"


def _with_area(
    boxes: Tensor, scores: Tensor, labels: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Set the score of boxes outside the input to 0."""
    height, width = image_size
    across = boxes[:, 2].clamp(0, width) > boxes[:, 0].clamp(0, width)
    down = boxes[:, 3].clamp(0, height) > boxes[:, 1].clamp(0, height)
    return boxes, torch.where(across & down, scores, 0.0), labels


def one_batch(shape: Shape, dimensions: int) -> bool:
    """Return whether a shape has `dimensions` dimensions, the first of which can be 1."""
    return len(shape) == dimensions and shape[0] in (1, None)


def corners(boxes: Tensor) -> Tensor:
    """Convert centre x, centre y, width, height to x1, y1, x2, y2; [A, 4]."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=1)


def to_pixels(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Scale boxes [A, 4] in 0..1 to pixels of (H, W)."""
    height, width = image_size
    return boxes * torch.tensor([width, height, width, height], dtype=boxes.dtype)


_IMAGES = 20  # images that are checked
_MIN_BOXES = 3


class Plausibility:
    """Counts plausible boxes in the first images: centre inside, sensible size and score."""

    def __init__(self) -> None:
        self.images = self.boxes = self.sound = 0
        self.example = ""
        self.reported = False

    def count(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> str:
        """Count the boxes of one image.

        Args:
            boxes: [A, 4] x1, y1, x2, y2 in input pixels, not clipped, above the score threshold.
            scores: [A].
            image_size: (H, W) of the detector's input in pixels.

        Returns:
            `warning`, once; empty if there is none or it has been reported.
        """
        if self.images == _IMAGES:
            return ""
        self.images += 1
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        most = boxes.new_tensor([image_size[1], image_size[0]])
        inside = ((centre >= 0) & (centre <= most)).all(dim=1)  # false for nan and infinity
        sensible = ((size >= 1) & (size <= 1.5 * most)).all(dim=1)
        sound = inside & sensible & (scores <= 1.01)
        self.boxes += len(boxes)
        self.sound += int(sound.sum())
        if not self.example and not sound.all():
            worst = int(sound.float().argmin())
            corners = ", ".join(f"{value:.4g}" for value in boxes[worst].tolist())
            self.example = f"{corners} with score {float(scores[worst]):.3g}"
        if self.reported or not self.warning:
            return ""
        self.reported = True
        return self.warning

    @property
    def warning(self) -> str:
        """Return a warning if most boxes are implausible; empty if not, or if there are too few boxes."""
        if self.boxes < _MIN_BOXES or 2 * self.sound >= self.boxes:
            return ""
        return (
            f"the detector's head seems to be misread: of {self.boxes:,} boxes in {self.images} images "
            f"only {self.sound:,} lie in the image with a sensible size and score (one that does not: "
            f"x1, y1, x2, y2 = {self.example}): choose another file of conf/postprocess, or set "
            "extractor.postprocess.normalized, columns or activation"
        )
