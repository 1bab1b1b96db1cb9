"""The masks of one image, and their conversion to other formats."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError, missing_extra
from roiseg.common.lazy import LazyArrays
from roiseg.common.limits import STACK_BYTES
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import Window, back_to_front, largest, owned
from roiseg.geometry.rle import encode_window

if TYPE_CHECKING:
    import supervision

Probabilities = NDArray[np.float32]
_MOST_LABELS = np.iinfo(np.uint16).max


@dataclass(frozen=True, repr=False)
class Prediction:
    """N instances of one image, in pixels of the image.

    A mask is stored in its window, the pixels that its box touches. `Predictor` computes masks when they are
    read and caches a bounded number of bytes, so read them one at a time.

    Attributes:
        size: (H, W) of the image.
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the image; a mask never extends beyond its box.
        scores: [N] 0..1 of the detector; 1 for boxes of other origin.
        mask_scores: [N] 0..1, the predicted IoU of the masks (at threshold 0.5).
        windows: N times x1, y1, x2, y2 in whole pixels, within the image.
        probabilities: N times [y2 - y1, x2 - x1], 0..1, 0.5 or more inside the mask: the probability of the
            target, corrected by the model's decision (`roiseg.inference.decision`).
        non_targets: the same for the non-target; None if the decoder has no such class.
        threshold: minimum of a mask's pixels.
        category_id: the COCO category that the model was trained on.
        exclusive: a pixel belongs to one instance at most, that of the largest probability.
    """

    size: tuple[int, int]
    boxes: Boxes
    scores: NDArray[np.float32]
    mask_scores: NDArray[np.float32]
    windows: Sequence[Window]
    probabilities: Sequence[Probabilities]
    non_targets: Sequence[Probabilities] | None = None
    threshold: float = 0.5
    category_id: int = 1
    exclusive: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Prediction({len(self)} instances in an image of {width}x{height} pixels)"

    def crop(self, index: int) -> NDArray[np.bool_]:
        """Return the mask of an instance inside its window."""
        return owned(index, self.probabilities[index], self.windows[index], self._owners, self.threshold)

    @functools.cached_property
    def _owners(self) -> NDArray[np.int32] | None:
        if not self.exclusive:
            return None
        return largest(zip(self.probabilities, self.windows, strict=True), self.size)

    @property
    def crops(self) -> Sequence[NDArray[np.bool_]]:
        """Return `crop` of every instance, computed on access."""
        return LazyArrays(len(self), self.crop)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Return the mask [H, W] of an instance."""
        canvas = np.zeros(self.size, bool)
        x1, y1, x2, y2 = self.windows[index]
        canvas[y1:y2, x1:x2] = self.crop(index)
        return canvas

    def masks(self) -> NDArray[np.bool_]:
        """Return all masks [N, H, W], in one array of N images.

        Raises:
            UserError: the array exceeds 4 GB.
        """
        if (needed := len(self) * self.size[0] * self.size[1]) > STACK_BYTES:
            raise UserError(
                f"{len(self)} masks of {self.size[1]}x{self.size[0]} pixels are {needed / 1e9:.1f} GB in one "
                "array: read them one at a time, crop(index) or rle(index)"
            )
        return np.array([self.mask(i) for i in range(len(self))], bool).reshape(len(self), *self.size)

    def rle(self, index: int) -> dict[str, Any]:
        """Return the COCO run-length encoding of a mask, `counts` as text, ready for json."""
        encoded = encode_window(self.crop(index), self.windows[index], self.size)
        return {"size": list(self.size), "counts": encoded["counts"].decode("ascii")}

    def polygons(self, index: int) -> list[NDArray[np.float32]]:
        """Return the outlines of a mask's parts, largest first.

        Returns:
            [P, 2] x, y each, P >= 3, in pixels of the image, through the centres of the border pixels
            (pixel i is i, as in OpenCV and labelling tools). Holes are filled; parts of one or two pixels are
            left out.
        """
        x, y = self.windows[index][:2]
        crop = np.ascontiguousarray(self.crop(index)).astype(np.uint8)
        if not crop.size:
            return []
        found, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
        pieces = [piece.reshape(-1, 2).astype(np.float32) for piece in found if len(piece) >= 3]
        return sorted(pieces, key=cv2.contourArea, reverse=True)

    def label_map(self) -> NDArray[np.uint16]:
        """Return [H, W]: 0 for background, else 1 + index of the instance, of two the smaller one.

        Raises:
            UserError: more than 65,535 instances.
        """
        if len(self) > _MOST_LABELS:
            raise UserError(
                f"{len(self):,} instances are more than a 16-bit label map can number ({_MOST_LABELS:,}): "
                "give fewer boxes (min_score), or leave label maps out"
            )
        labels = np.zeros(self.size, np.uint16)
        for index in back_to_front([int(self.crop(index).sum()) for index in range(len(self))]):
            x1, y1, x2, y2 = self.windows[index]
            labels[y1:y2, x1:x2][self.crop(index)] = index + 1
        return labels

    def to_coco(self, image_id: int, category_id: int | None = None) -> list[dict[str, Any]]:
        """Return COCO results; `bbox` is the box [x, y, width, height], `score` its score; also `mask_score`.

        Args:
            image_id: of the image.
            category_id: None: the model's.
        """
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": self.category_id if category_id is None else category_id,
                "bbox": [round(float(value), 2) for value in corners[i]],
                "score": round(float(self.scores[i]), 5),
                "mask_score": round(float(self.mask_scores[i]), 5),
                "segmentation": self.rle(i),
            }
            for i in range(len(self))
        ]

    def to_polygons(self) -> list[list[NDArray[np.float32]]]:
        """Return `polygons` of every instance."""
        return [self.polygons(i) for i in range(len(self))]

    def to_supervision(self) -> supervision.Detections:
        """Convert to `supervision.Detections`, class 0.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise missing_extra("to_supervision", "supervision") from None
        if not len(self):
            return supervision.Detections.empty()
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=self.masks(),
            confidence=self.scores.copy(),
            data={"mask_score": self.mask_scores.copy()},
            class_id=np.zeros(len(self), int),
        )
