"""Targets: the three-class pixel labels of a ROI, rasterised straight at the decoder's grid.

0 background, 1 target, 2 non-target (every other instance), 255 ignore (crowd). Where they overlap:
target before non-target before ignore before background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roiseg.common.classes import BACKGROUND, IGNORE, NON_TARGET, TARGET
from roiseg.data.shapes import Shape
from roiseg.geometry.boxes import Boxes, intersection
from roiseg.geometry.letterbox import Transform

Frame = Literal["roi", "image"]


@dataclass(frozen=True)
class TargetSpec:
    """Where and how targets are drawn; given by the decoder.

    Args:
        frame: "roi": a grid stretched over the ROI; "image": a grid over the whole input.
        size: (h, w) of that grid in cells.
        num_classes: 3, or 2 to label other instances as background.
        image_size: (H, W) of the input in pixels.
        metric_size: (h, w) of the grid over each ROI on which validation counts pixels, one for all
            decoders; None: this grid itself (roi frame only).
    """

    frame: Frame
    size: tuple[int, int]
    num_classes: int
    image_size: tuple[int, int]
    metric_size: tuple[int, int] | None = None

    def metric_spec(self) -> TargetSpec:
        """Where the targets are drawn that metrics compare with."""
        if self.metric_size is None:
            return self
        return replace(self, frame="roi", size=self.metric_size, metric_size=None)

    def grids_as(self, other: TargetSpec) -> bool:
        """Do both draw on the same grid?"""
        return (self.frame, self.size) == (other.frame, other.size)

    def grid(self, transform: Transform, roi: NDArray[np.float32]) -> Transform:
        """The map original pixels -> grid cells, for a ROI [4] in input pixels."""
        height, width = self.size
        if self.frame == "image":
            x1, y1, x2, y2 = 0.0, 0.0, float(self.image_size[1]), float(self.image_size[0])
        else:
            x1, y1, x2, y2 = (float(v) for v in roi)
        scale_x, scale_y = width / (x2 - x1), height / (y2 - y1)
        return Transform(
            transform.scale_x * scale_x,
            transform.scale_y * scale_y,
            (transform.shift_x - x1) * scale_x,
            (transform.shift_y - y1) * scale_y,
        )


def draw_targets(
    spec: TargetSpec,
    shapes: Sequence[Shape],
    boxes: Boxes,
    crowd: NDArray[np.bool_],
    transform: Transform,
    rois: Boxes,
    owners: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Label the grid of each ROI.

    Args:
        spec: frame, grid and classes.
        shapes: outlines of all n instances of the image.
        boxes: their boxes [n, 4] in input pixels.
        crowd: [n], instances that are uncertain regions.
        transform: original -> input pixels.
        rois: [R, 4] in input pixels.
        owners: [R] position in `shapes` of each ROI's target.

    Returns:
        uint8 [R, h, w].
    """
    windows = rois
    if spec.frame == "image":
        height, width = spec.image_size
        windows = np.tile(np.array([0, 0, width, height], np.float32), (len(rois), 1))
    touches = intersection(windows, boxes) > 0
    other = NON_TARGET if spec.num_classes == 3 else BACKGROUND
    targets = np.full((len(rois), *spec.size), BACKGROUND, np.uint8)
    for target, roi, owner, touched in zip(targets, rois, owners, touches, strict=True):
        grid = spec.grid(transform, roi)
        others = [int(i) for i in np.flatnonzero(touched) if i != owner]
        for i in (i for i in others if crowd[i]):
            target[shapes[i].rasterize(grid, spec.size) > 0] = IGNORE
        for i in (i for i in others if not crowd[i]):
            target[shapes[i].rasterize(grid, spec.size) > 0] = other
        target[shapes[int(owner)].rasterize(grid, spec.size) > 0] = TARGET
    return targets
