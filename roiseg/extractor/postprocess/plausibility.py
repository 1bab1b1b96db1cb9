"""Detect a misread head: its boxes lie outside the image or have implausible sizes and scores."""

from __future__ import annotations

from torch import Tensor

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
