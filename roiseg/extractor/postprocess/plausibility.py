"""Whether the boxes that an adapter reads look like boxes: heads can be misread without an error."""

from __future__ import annotations

from torch import Tensor

_IMAGES = 20  # looked at
_ENOUGH = 3  # boxes to judge by


class Plausibility:
    """Counts the boxes of the first images that lie in the image and have a sensible size and score."""

    def __init__(self) -> None:
        self.images = self.boxes = self.sound = 0
        self.example = ""
        self.told = False

    def count(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> str:
        """Count the boxes of one image.

        Args:
            boxes: [A, 4] x1, y1, x2, y2 in input pixels, not cut, above the score threshold.
            scores: [A].
            image_size: (H, W) of the detector's input in pixels.

        Returns:
            `doubt`, once; an empty text where there is none or it has been told.
        """
        if self.images == _IMAGES:
            return ""
        self.images += 1
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        most = boxes.new_tensor([image_size[1], image_size[0]])
        inside = ((centre >= 0) & (centre <= most)).all(dim=1)  # NaN and infinity are not
        sensible = ((size >= 1) & (size <= 1.5 * most)).all(dim=1)
        sound = inside & sensible & (scores <= 1.01)
        self.boxes += len(boxes)
        self.sound += int(sound.sum())
        if not self.example and not sound.all():
            worst = int(sound.float().argmin())
            corners = ", ".join(f"{value:.4g}" for value in boxes[worst].tolist())
            self.example = f"{corners} with score {float(scores[worst]):.3g}"
        if self.told or not self.doubt:
            return ""
        self.told = True
        return self.doubt

    @property
    def doubt(self) -> str:
        """What is wrong with most boxes, in words; empty where most are plausible or too few were seen."""
        if self.boxes < _ENOUGH or 2 * self.sound >= self.boxes:
            return ""
        return (
            f"the detector's head seems to be misread: of {self.boxes:,} boxes in {self.images} images "
            f"{self.sound:,} lie in the image with a sensible size and score (not so: x1, y1, x2, y2 = "
            f"{self.example}): choose another adapter of conf/postprocess, or set "
            "extractor.postprocess.normalized, columns or activation"
        )
