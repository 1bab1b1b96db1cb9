"""Test-time augmentation: the views of an image that predictions are averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch, RoiSample, RoiTruth
from roiseg.extractor.cache.base import CacheResult
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Letterbox, Transform

_STEP = 0.25  # of the input's sides: crops lie on a grid, so that neighbours share one


@dataclass(frozen=True)
class TTA:
    """Which views of an image a prediction is averaged over, beside the whole.

    Crops are as in sliced inference (Akyon et al., SAHI, 2022), but only where a ROI is small, and a crop is
    shared by all ROIs that lie in it: an image costs at most one more run of the extractor per ROI and scale,
    mostly far fewer. `hflip` doubles the runs.

    Args:
        hflip: every view also flipped left to right.
        crop_scales: enlargements relative to the letterboxed image, above 1; none: no crops.
        max_crop_share: a ROI is seen at every scale that leaves its longer side at this share (0..0.75) of
            the input's or less.

    Raises:
        UserError: a scale or share outside these ranges.
    """

    hflip: bool = False
    crop_scales: Sequence[float] = ()
    max_crop_share: float = 0.6

    def __post_init__(self) -> None:
        if not all(scale > 1 for scale in self.crop_scales):
            raise UserError(f"tta.crop_scales must be numbers above 1, got {list(self.crop_scales)}")
        if not 0 < self.max_crop_share <= 1 - _STEP:
            raise UserError(
                f"tta.max_crop_share must be above 0, up to {1 - _STEP}, got {self.max_crop_share}"
            )

    def plan_crops(
        self, letterbox: Letterbox, size: tuple[int, int], rois: Boxes
    ) -> list[tuple[Transform, NDArray[np.int64]]]:
        """Choose the crops of an image.

        Args:
            letterbox: how the whole is brought to the extractor's input.
            size: (H, W) of the image in original pixels.
            rois: [R, 4] in original pixels.

        Returns:
            One entry per crop: original -> input pixels, and the ROIs that are seen in it.
        """
        fit = letterbox.fit(*size)
        height, width = letterbox.size
        sides = (rois[:, 2:] - rois[:, :2]) * (fit.scale_x / width, fit.scale_y / height)
        shares = sides.max(axis=1, initial=0)
        crops: dict[Transform, list[int]] = {}
        for scale in self.crop_scales:
            for roi in np.flatnonzero(shares * scale <= self.max_crop_share):
                crop = _crop(letterbox, fit, size, scale, rois[roi])
                crops.setdefault(crop, []).append(int(roi))
        return [(crop, np.array(inside, np.int64)) for crop, inside in crops.items()]

    def crops(
        self, sample: RoiSample, image: NDArray[np.uint8], letterbox: Letterbox, rois: Boxes
    ) -> list[RoiSample]:
        """Cut the crops of a sample's image, with those of its ROIs that are seen in each.

        Args:
            sample: the whole image.
            image: [h, w, 3] RGB at original size.
            letterbox: how it is brought to the extractor's input.
            rois: [r, 4] all ROIs of the sample in original pixels.
        """
        return [
            replace(
                sample,
                image=letterbox.apply(image, transform),
                transform=transform,
                rois=transform.boxes(rois[seen]),
                targets=sample.targets[:0],
                truth=RoiTruth(metric_targets=sample.truth.metric_targets[:0]),
                pixel_size=sample.pixel_size * sample.transform.scale / transform.scale,
                cache_key=None,
                cached=CacheResult(False),
                parent_roi=seen,
            )
            for transform, seen in self.plan_crops(letterbox, sample.original_size, rois)
        ]


def hflip(batch: RoiBatch) -> RoiBatch:
    """Flip the input images of a batch left to right, padding included, and all that lies on them.

    Args:
        batch: with all its images.

    Returns:
        A view of the same ROIs in the same order, whose features are still to be computed. A map over the
        ROI or over the input, flipped along x, is one of the batch given.
    """
    assert len(batch.images) == len(batch.samples), "a batch to be flipped needs all its images"
    width = batch.images.shape[2]
    rois = batch.rois.clone()
    rois[:, 1], rois[:, 3] = width - batch.rois[:, 3], width - batch.rois[:, 1]
    return replace(
        batch,
        images=batch.images.flip(2),
        rois=rois,
        targets=batch.targets.flip(-1),
        metric_targets=batch.metric_targets.flip(-1),
        samples=[_hflip_sample(sample, width) for sample in batch.samples],
        cached_rows=batch.cached_rows[:0],
        features=(),
        inputs=None,
        views=(),
        hflipped=not batch.hflipped,
    )


def _hflip_sample(sample: RoiSample, width: int) -> RoiSample:
    old = sample.transform
    transform = Transform(-old.scale_x, old.scale_y, width - old.shift_x, old.shift_y)
    rois = sample.rois.copy()
    rois[:, 0], rois[:, 2] = width - sample.rois[:, 2], width - sample.rois[:, 0]
    return replace(sample, transform=transform, rois=rois, cache_key=None, cached=CacheResult(False))


def _crop(
    letterbox: Letterbox, fit: Transform, size: tuple[int, int], scale: float, roi: NDArray[np.float32]
) -> Transform:
    """The part of the enlarged image, on the grid, whose middle is nearest to a ROI's."""
    scales, shifts = [], []
    axes = ((fit.scale_x, fit.shift_x), (fit.scale_y, fit.shift_y))
    for axis, (fitted, margin) in enumerate(axes):
        whole, window = size[1 - axis], letterbox.size[1 - axis]
        enlarged = max(1, round(whole * fitted * scale))  # whole pixels, as `Letterbox.apply` draws
        scales.append(enlarged / whole)
        room = enlarged - window
        if room <= 0:  # padding goes where the letterbox puts it
            shifts.append(float(-room // 2 if margin else 0))
            continue
        centre = (roi[axis] + roi[axis + 2]) / 2 * scales[-1]
        step = window * _STEP
        shifts.append(-float(min(max(round(round((centre - window / 2) / step) * step), 0), room)))
    return Transform(scales[0], scales[1], shifts[0], shifts[1])
