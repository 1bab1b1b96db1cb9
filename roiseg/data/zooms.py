"""Close-ups: small ROIs looked at once more, enlarged, when a decoder is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Letterbox, Transform

_STEP = 0.25  # of the input's sides: close-ups lie on a grid, so that neighbours share one


@dataclass(frozen=True)
class CropScales:
    """Which enlarged parts of an image are looked at, beside the whole.

    As in sliced inference (Akyon et al., SAHI, 2022), but only where a ROI is small, and a part is shared
    by all ROIs that lie in it: an image costs at most one more run of the extractor for each ROI and
    factor, mostly far fewer.

    Args:
        factors: enlargements relative to the letterboxed image, above 1.
        longest: a ROI is looked at with every factor that leaves its longer side at this share (0..0.75) of
            the input's or less.
    """

    factors: Sequence[float] = (2.0, 3.0, 4.0, 6.0)
    longest: float = 0.6

    def __post_init__(self) -> None:
        if not self.factors or not min(self.factors) > 1:
            raise UserError(f"data.zooms.factors must be numbers above 1, got {list(self.factors)}")
        if not 0 < self.longest <= 1 - _STEP:
            raise UserError(f"data.zooms.longest must be above 0, up to {1 - _STEP}, got {self.longest}")

    def close_ups(
        self, letterbox: Letterbox, size: tuple[int, int], rois: Boxes
    ) -> list[tuple[Transform, NDArray[np.int64]]]:
        """The enlarged parts of an image.

        Args:
            letterbox: how the whole is brought to the extractor's input.
            size: (H, W) of the image in original pixels.
            rois: [R, 4] in original pixels.

        Returns:
            One entry a part: original -> input pixels, and the ROIs that are looked at in it.
        """
        fit = letterbox.fit(*size)
        height, width = letterbox.size
        sides = (rois[:, 2:] - rois[:, :2]) * (fit.scale_x / width, fit.scale_y / height)
        shares = sides.max(axis=1, initial=0)
        parts: dict[Transform, list[int]] = {}
        for factor in self.factors:
            for roi in np.flatnonzero(shares * factor <= self.longest):
                part = _part(letterbox, fit, size, factor, rois[roi])
                parts.setdefault(part, []).append(int(roi))
        return [(part, np.array(inside, np.int64)) for part, inside in parts.items()]


def _part(
    letterbox: Letterbox, fit: Transform, size: tuple[int, int], factor: float, roi: NDArray[np.float32]
) -> Transform:
    """The part of the enlarged image, on the grid, in whose middle a ROI lies most nearly."""
    scales, shifts = [], []
    axes = ((fit.scale_x, fit.shift_x), (fit.scale_y, fit.shift_y))
    for axis, (scale, margin) in enumerate(axes):
        whole, window = size[1 - axis], letterbox.size[1 - axis]
        enlarged = max(1, round(whole * scale * factor))  # whole pixels, as `Letterbox.apply` draws
        scales.append(enlarged / whole)
        room = enlarged - window
        if room <= 0:  # padding goes where the letterbox puts it
            shifts.append(float(-room // 2 if margin else 0))
            continue
        centre = (roi[axis] + roi[axis + 2]) / 2 * scales[-1]
        step = window * _STEP
        shifts.append(-float(min(max(round(round((centre - window / 2) / step) * step), 0), room)))
    return Transform(scales[0], scales[1], shifts[0], shifts[1])
