"""The same batch, seen in a mirror."""

from __future__ import annotations

from dataclasses import replace

from roiseg.data.batch import RoiBatch, RoiSample
from roiseg.extractor.cache.base import Lookup
from roiseg.geometry.transform import Transform


def mirror(batch: RoiBatch) -> RoiBatch:
    """Flip the input images of a batch left to right, padding included, and all that lies on them.

    Args:
        batch: with all its images.

    Returns:
        A batch of the same ROIs in the same order, whose features are still to be computed. A map over the
        ROI or over the input, flipped along x, is one of the batch given.
    """
    assert len(batch.images) == len(batch.samples), "a batch to be mirrored needs all its images"
    width = batch.images.shape[2]
    rois = batch.rois.clone()
    rois[:, 1], rois[:, 3] = width - batch.rois[:, 3], width - batch.rois[:, 1]
    return replace(
        batch,
        images=batch.images.flip(2),
        rois=rois,
        targets=batch.targets.flip(-1),
        measured=batch.measured.flip(-1),
        samples=[_mirror(sample, width) for sample in batch.samples],
        stored=batch.stored[:0],
        features=(),
        inputs=None,
        close_ups=None,
        mirrored=None,
    )


def _mirror(sample: RoiSample, width: int) -> RoiSample:
    old = sample.transform
    transform = Transform(-old.scale_x, old.scale_y, width - old.shift_x, old.shift_y)
    rois = sample.rois.copy()
    rois[:, 0], rois[:, 2] = width - sample.rois[:, 2], width - sample.rois[:, 0]
    return replace(sample, transform=transform, rois=rois, cache_key=None, found=Lookup(False))
