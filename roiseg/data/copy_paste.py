"""Copy-paste: which people are pasted into a picture, and where.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021. There, donors are placed anywhere. Here most stand beside a person of the picture, about as tall
and on the same ground, so that boxes overlap and both classes, target and non-target, are hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.data.donors import Donors
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.paste import Window


@dataclass(frozen=True)
class Paste:
    """One person in one place of another picture.

    Attributes:
        donor: the instance, by index in the training set.
        window: x1, y1, x2, y2 it is cut out at, in whole pixels of its own picture.
        place: x1, y1, x2, y2 the window is stretched over, in whole pixels of the other picture; may
            reach beyond that.
        mirrored: left and right are exchanged.
        behind: it stands behind everybody who is there already, not in front.
        tone: share (0..1) of the way its colours are moved to those around it.
    """

    donor: int
    window: Window
    place: Window
    mirrored: bool
    behind: bool
    tone: float

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the place in pixels."""
        x1, y1, x2, y2 = self.place
        return y2 - y1, x2 - x1


@dataclass(frozen=True)
class CopyPaste:
    """Draws people of other training pictures, pasted beside the people of a picture.

    Args:
        probability: that a picture gets any.
        people: most that a picture gets; as many or fewer with equal probability.
        near: share that are placed beside a person so that their boxes overlap; the others stand
            anywhere on its ground.
        behind: share that are placed behind everybody else, not in front.
        scale: (low, high) height relative to that person's, drawn log-uniformly.
        max_zoom: a donor is enlarged to at most so many times its size.
        flip: probability of a mirror image.
        tone: most (0..1) that a donor's mean colour and contrast are moved to those of the pixels
            around it; drawn uniformly.
        min_size: smallest side of a donor's box in original pixels.
        min_visible: a person of whom less than this share is left to see is no ROI.
    """

    probability: float = 0.5
    people: int = 3
    near: float = 0.8
    behind: float = 0.3
    scale: Sequence[float] = (0.7, 1.4)
    max_zoom: float = 2.0
    flip: float = 0.5
    tone: float = 0.4
    min_size: float = 40
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        for name in ("probability", "near", "behind", "flip", "tone", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.augment.paste.{name} must be within 0..1, got {getattr(self, name)}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(
                f"data.augment.paste.scale must be [low, high] with 0 < low <= high, got {self.scale}"
            )
        if self.people < 1 or not self.max_zoom > 0:
            raise UserError(
                "data.augment.paste: people must be 1 or more and max_zoom above 0, got "
                f"{self.people} and {self.max_zoom}"
            )

    def draw(
        self, boxes: Boxes, size: tuple[int, int], image: int, donors: Donors, rng: np.random.Generator
    ) -> list[Paste]:
        """Draw what is pasted into an image, one after another.

        Args:
            boxes: [n, 4] of the people to stand beside, in original pixels.
            size: (H, W) of the image in original pixels.
            image: its index in the training set.
            donors: whom to choose from; none of this image.
            rng: source of randomness.
        """
        if rng.random() >= self.probability or not len(boxes):
            return []
        drawn = [self._draw(boxes, size, image, donors, rng) for _ in range(rng.integers(self.people) + 1)]
        return [paste for paste in drawn if paste is not None]

    def _draw(
        self, boxes: Boxes, size: tuple[int, int], image: int, donors: Donors, rng: np.random.Generator
    ) -> Paste | None:
        x1, y1, x2, y2 = boxes[rng.integers(len(boxes))].tolist()
        wanted = (y2 - y1) * math.exp(rng.uniform(*np.log(self.scale)))
        donor = donors.draw(image, wanted / self.max_zoom, rng)
        if donor is None:
            return None
        window = donors.window(donor)
        zoom = min(wanted / (window[3] - window[1]), self.max_zoom)
        width = max(1, round(zoom * (window[2] - window[0])))
        height = max(1, round(zoom * (window[3] - window[1])))
        if rng.random() < self.near:
            apart = rng.choice([-1, 1]) * rng.uniform(*_APART) * (x2 - x1 + width) / 2
            centre = min(max((x1 + x2) / 2 + apart, 0), size[1])
        else:
            centre = rng.uniform(0, size[1])
        left = round(centre - width / 2)
        top = round(y2 + _UNEVEN * height * rng.uniform(-1, 1)) - height
        return Paste(
            donor,
            window,
            (left, top, left + width, top + height),
            mirrored=bool(rng.random() < self.flip),
            behind=bool(rng.random() < self.behind),
            tone=self.tone * float(rng.random()),
        )


# Between the centres of two neighbours, of the distance at which their boxes no longer overlap.
_APART = (0.1, 0.85)
_UNEVEN = 0.1  # feet are up to this share of the height above or below the neighbour's


def blend(
    under: NDArray[np.uint8], patch: NDArray[np.uint8], mask: NDArray[np.bool_], tone: float
) -> NDArray[np.uint8]:
    """Lay a person over a part of a picture; what is outside its mask keeps every pixel.

    Its edge, two pixels wide, shows a little of what is below: a person cut out hard would be told by it.

    Args:
        under: [h, w, 3] the part of the picture.
        patch: [h, w, 3] the donor's picture, brought to the same pixels.
        mask: [h, w] where the person is seen.
        tone: share (0..1) of the way its colours are moved to those of the rest of `under`.
    """
    gain, offset = _tone(under, patch, mask, tone)
    person, below = patch[mask].astype(np.float32), under[mask].astype(np.float32)
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)[mask, None]
    result = under.copy()
    result[mask] = (below + alpha * ((gain * person + offset).clip(0, 255) - below) + 0.5).astype(np.uint8)
    return result


def _tone(
    under: NDArray[np.uint8], patch: NDArray[np.uint8], mask: NDArray[np.bool_], tone: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain and offset [3] a channel that bring a person's mean and spread nearer to those around it."""
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    if not tone or mask.all() or not mask.any():
        return gain, offset
    inside = mask.astype(np.uint8)
    mean, spread = (stat.ravel() for stat in cv2.meanStdDev(patch, mask=inside))
    other_mean, other_spread = (stat.ravel() for stat in cv2.meanStdDev(under, mask=1 - inside))
    gain += tone * (np.clip((other_spread + 1) / (spread + 1), *_CONTRAST) - 1)
    offset += mean + tone * (other_mean - mean) - gain * mean
    return gain, offset


_CONTRAST = (0.5, 2.0)
