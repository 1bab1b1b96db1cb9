"""Test-time augmentation: the views of an image that predictions are averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from roiseg.data.batch import RoiBatch, RoiSample, RoiTruth
from roiseg.extractor.cache.base import CacheResult
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Letterbox, Transform

_STEP = 0.25  # of the input's sides: crops lie on a grid, so that nearby ROIs share them


@dataclass(frozen=True)
class TTA:
    """The views of an image that predictions are averaged over, besides the whole image.

    Crops are as in sliced inference (Akyon et al., SAHI, 2022), but only for small ROIs, and all ROIs inside
    a crop share it: an image costs at most one more extractor run per ROI and scale, usually far fewer.
    `hflip` doubles the runs.
    """

    hflip: bool = False  # also flip every view left to right
    # enlargements above 1, relative to the letterboxed image; empty for no crops
    crop_scales: Sequence[Annotated[float, Field(gt=1)]] = ()
    # a ROI is cropped at every scale at which its longer side takes at most this share (0..0.75) of the
    # input's
    max_crop_share: Annotated[float, Field(gt=0, le=1 - _STEP)] = 0.6

    def plan_crops(
        self, letterbox: Letterbox, size: tuple[int, int], rois: Boxes
    ) -> list[tuple[Transform, NDArray[np.int64]]]:
        """Choose the crops of an image.

        Args:
            letterbox: fits the whole image into the extractor's input.
            size: (H, W) of the image in original pixels.
            rois: [R, 4] in original pixels.

        Returns:
            One entry per crop: its transform (original -> input pixels) and the indices of its ROIs.
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
        return [(crop, np.array(rois_inside, np.int64)) for crop, rois_inside in crops.items()]

    def crops(
        self, sample: RoiSample, image: NDArray[np.uint8], letterbox: Letterbox, rois: Boxes
    ) -> list[RoiSample]:
        """Cut the crops of a sample's image, each with its ROIs.

        Args:
            image: [h, w, 3] RGB at original size.
            letterbox: fits it into the extractor's input.
            rois: [r, 4] all ROIs of the sample in original pixels.
        """
        return [
            replace(
                sample,
                image=letterbox.apply(image, transform),
                transform=transform,
                rois=transform.boxes(rois[indices]),
                targets=sample.targets[:0],
                truth=RoiTruth(metric_targets=sample.truth.metric_targets[:0]),
                pixel_size=sample.pixel_size * sample.transform.scale / transform.scale,
                cache_key=None,
                cached=CacheResult(False),
                parent_roi=indices,
            )
            for transform, indices in self.plan_crops(letterbox, sample.original_size, rois)
        ]


def hflip(batch: RoiBatch) -> RoiBatch:
    """Flip the input images of a batch left to right, padding included, with ROIs and targets.

    Returns:
        A view with the same ROIs in the same order, without features. A map over a ROI or the input, flipped
        along x, corresponds to one of the given batch.
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
    """Return the crop of the enlarged image, on the grid, whose centre is nearest to a ROI's."""
    scales, shifts = [], []
    axes = ((fit.scale_x, fit.shift_x), (fit.scale_y, fit.shift_y))
    for axis, (fitted, margin) in enumerate(axes):
        whole, window = size[1 - axis], letterbox.size[1 - axis]
        enlarged = max(1, round(whole * fitted * scale))  # whole pixels, as in `Letterbox.apply`
        scales.append(enlarged / whole)
        room = enlarged - window
        if room <= 0:  # padding goes where the letterbox puts it
            shifts.append(float(-room // 2 if margin else 0))
            continue
        centre = (roi[axis] + roi[axis + 2]) / 2 * scales[-1]
        step = window * _STEP
        shifts.append(-float(min(max(round(round((centre - window / 2) / step) * step), 0), room)))
    return Transform(scales[0], scales[1], shifts[0], shifts[1])
