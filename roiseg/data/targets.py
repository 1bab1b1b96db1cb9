"""Rasterize targets: the three-class pixel labels of a ROI, directly on the decoder's grid.

0 background, 1 target, 2 non-target (every other instance), 255 ignore (crowd). Where they overlap, target
wins over non-target, non-target over ignore, and ignore over background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roiseg.common.classes import IGNORE, NON_TARGET, TARGET
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.outlines import Grids, Outlines, Planes, unpack
from roiseg.geometry.transform import Transform

Frame = Literal["roi", "image"]

_CHUNK = 1 << 18  # numbers per step: a few MB, whatever the number of ROIs and instances


@dataclass(frozen=True)
class TargetSpec:
    """The grid and classes of the targets, given by the decoder."""

    frame: Frame  # "roi": a grid stretched over the ROI; "image": a grid over the whole input
    size: tuple[int, int]  # (h, w) of that grid in cells
    num_classes: int  # 3, or 2 to label other instances as background
    image_size: tuple[int, int]  # (H, W) of the input in pixels
    # (h, w) of the grid over each ROI on which validation counts pixels, the same for all decoders; None uses
    # this grid (roi frame only)
    metric_size: tuple[int, int] | None = None

    def metric_spec(self) -> TargetSpec:
        """Return the spec of the targets that metrics compare with."""
        if self.metric_size is None:
            return self
        return replace(self, frame="roi", size=self.metric_size, metric_size=None)

    def grids(self, transform: Transform, rois: Boxes) -> Grids:
        """Return the grids over original pixels: one per ROI [R, 4] in input pixels, or that of the image."""
        height, width = self.size
        if self.frame == "image":
            rois = np.array([[0, 0, self.image_size[1], self.image_size[0]]], np.float32)
        corners = rois.astype(np.float64)
        cells = (width, height) / (corners[:, 2:] - corners[:, :2])  # per input pixel
        return Grids(
            cells * (transform.scale_x, transform.scale_y),
            cells * ((transform.shift_x, transform.shift_y) - corners[:, :2]),
            self.size,
        )


def rasterize_targets(
    spec: TargetSpec,
    outlines: Outlines,
    crowd: NDArray[np.bool_],
    transform: Transform,
    rois: Boxes,
    target_index: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Label the grid of each ROI.

    Args:
        outlines: of all n instances of the image.
        crowd: [n] marks uncertain regions.
        rois: [R, 4] in input pixels.
        target_index: [R] position in `outlines` of each ROI's target.

    Returns:
        uint8 [R, h, w].
    """
    targets = np.empty((len(rois), *spec.size), np.uint8)
    grids = spec.grids(transform, rois)
    if spec.frame == "image":
        targets[:] = _labels(spec, outlines.planes(grids), crowd, target_index)
        return targets
    step = max(1, _CHUNK // (1 + outlines.work(grids)))
    for start in range(0, len(rois), step):
        some = slice(start, start + step)
        targets[some] = _labels(spec, outlines.planes(grids[some]), crowd, target_index[some])
    return targets


def _labels(
    spec: TargetSpec, planes: Planes, crowd: NDArray[np.bool_], target_index: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return labels [R, h, w] from bits [B, R, n, w], or [B, 1, n, w] of a grid that all ROIs share."""
    target = planes[:, np.arange(len(target_index)) % planes.shape[1], target_index]
    any_crowd = crowd.any()
    persons = np.bitwise_or.reduce(planes[:, :, ~crowd] if any_crowd else planes, axis=2)
    classes = []
    if spec.num_classes == 3:
        classes.append((NON_TARGET, persons & ~target))
    if any_crowd:
        classes.append((IGNORE, np.bitwise_or.reduce(planes[:, :, crowd], axis=2) & ~persons & ~target))
    labels = unpack(target) * np.uint8(TARGET)
    for label, bits in classes:
        labels += np.uint8(label) * unpack(bits)
    return labels[:, :, : spec.size[0]].swapaxes(1, 2)
