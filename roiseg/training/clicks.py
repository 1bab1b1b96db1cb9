"""Point prompts sampled from the ground truth during training, as a user would click."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from roiseg.common.classes import BACKGROUND, IGNORE, TARGET
from roiseg.common.errors import require_any
from roiseg.common.types import Share


@dataclass(frozen=True)
class Clicks:
    """Samples clicks on the target and off it.

    Raises:
        UserError: no click at all.
    """

    positive: NonNegativeInt = 1
    negative: NonNegativeInt = 1  # clicks off it, on non-targets where there are any, else on the background
    share: Share = 0.5  # share of the ROIs that get clicks at all, so that the decoder learns to do without

    def __post_init__(self) -> None:
        require_any("clicks.positive and clicks.negative", self.positive, self.negative)

    def __call__(self, targets: Tensor, windows: Tensor) -> Tensor:
        """Sample the clicks of ROIs.

        Args:
            targets: uint8 [R, h, w] class indices.
            windows: [R, 4] boxes in input pixels that the targets' grid is stretched over.

        Returns:
            [R, positive + negative, 3]: x, y in input pixels, and 1 on the target, 0 off it, -1 no click.
        """
        labels = targets.flatten(1)
        on = (labels == TARGET).float()
        others = ((labels != TARGET) & (labels != BACKGROUND) & (labels != IGNORE)).float()
        off = torch.where(others.any(1, keepdim=True), others, (labels == BACKGROUND).float())
        drawn = [
            self._sample(weights, count, label, targets.shape[2], targets.shape[1], windows)
            for weights, count, label in ((on, self.positive, 1.0), (off, self.negative, 0.0))
            if count
        ]
        points = torch.cat(drawn, dim=1)
        without = torch.rand(len(points), device=points.device) >= self.share
        points[without, :, 2] = -1
        return points

    def _sample(
        self, weights: Tensor, count: int, label: float, width: int, height: int, windows: Tensor
    ) -> Tensor:
        """Sample clicks [R, count, 3] on cells with `weights` [R, h * w]; label -1 where all are 0."""
        possible = weights.any(dim=1, keepdim=True)
        safe = torch.where(possible, weights, torch.ones_like(weights))
        if len(safe):
            cells = torch.multinomial(safe, count, replacement=True)
        else:
            cells = torch.zeros((0, count), dtype=torch.long, device=safe.device)
        sides = (windows[:, 2:] - windows[:, :2])[:, None]
        grid = torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], dim=2)
        labels = torch.where(possible, label, -1.0).expand(-1, count)
        return torch.cat([windows[:, None, :2] + grid * sides, labels[..., None]], dim=2)
