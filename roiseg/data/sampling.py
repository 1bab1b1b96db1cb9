"""Which ROIs an image gives in a training step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.boxes import Boxes


@dataclass(frozen=True)
class RoiSampler:
    """Draws K ROIs an image: annotated boxes, jittered ones, hard ones more often.

    Args:
        rois_per_image: K. An image with fewer instances repeats some of them, jittered.
        jitter_share: share of the draws that are jittered (0..1); repeated draws always are.
        jitter_center: a jittered box's centre moves by up to this share of its sides.
        jitter_scale: its sides are multiplied by a factor within 1 / (1 + s) .. 1 + s.
        hard_weight: an instance is drawn 1 + hard_weight * crowding times as often as one that
            stands alone (hard negative mining; crowding is the share of its box under other boxes).
    """

    rois_per_image: int = 4
    jitter_share: float = 0.5
    jitter_center: float = 0.08
    jitter_scale: float = 0.15
    hard_weight: float = 2.0

    def __post_init__(self) -> None:
        if self.rois_per_image < 1:
            raise UserError(f"data.sampler.rois_per_image must be 1 or more, got {self.rois_per_image}")
        if not 0 <= self.jitter_share <= 1:
            raise UserError(f"data.sampler.jitter_share must be within 0..1, got {self.jitter_share}")
        for name in ("jitter_center", "jitter_scale", "hard_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"data.sampler.{name} must be 0 or more, got {getattr(self, name)}")

    def draw(
        self, boxes: Boxes, eligible: NDArray[np.int64], rng: np.random.Generator, size: tuple[int, int]
    ) -> tuple[Boxes, NDArray[np.int64]]:
        """Draw the ROIs of one image.

        Args:
            boxes: [n, 4] boxes of all its instances in input pixels.
            eligible: positions in `boxes` that may be a ROI.
            rng: source of randomness.
            size: (H, W) of the input; ROIs are cut to it.

        Returns:
            ROIs [K, 4] in input pixels and the position [K] of each one's target; both empty if
            nothing is eligible.
        """
        if not len(eligible):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        weights = 1 + self.hard_weight * box_ops.crowding(boxes)[eligible].astype(np.float64)
        weights /= weights.sum()
        once = min(self.rois_per_image, len(eligible))
        chosen = rng.choice(eligible, once, replace=False, p=weights)
        again = rng.choice(eligible, self.rois_per_image - once, p=weights)
        owners = np.concatenate([chosen, again])
        exact = boxes[owners]
        moved = box_ops.clip(box_ops.jitter(exact, rng, self.jitter_center, self.jitter_scale), size)
        sides = np.minimum(moved[:, 2] - moved[:, 0], moved[:, 3] - moved[:, 1])
        use = (rng.random(len(owners)) < self.jitter_share) | (np.arange(len(owners)) >= once)
        rois = np.where((use & (sides >= 2))[:, None], moved, exact)
        return rois.astype(np.float32), owners
