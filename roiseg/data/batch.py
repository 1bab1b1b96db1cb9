"""What flows from the loader to the decoder: samples (one image) and batches (several)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.extractor.cache.base import Key, Lookup
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Transform

_NO_IMAGES = torch.zeros((0, 1, 1, 3), dtype=torch.uint8)
_NO_ROWS = torch.zeros(0, dtype=torch.int64)
_NOTHING = torch.zeros((0, 0), dtype=torch.uint8)


def _no_targets() -> NDArray[np.uint8]:
    return np.zeros((0, 1, 1), np.uint8)


def _no_ids() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _no_shares() -> NDArray[np.float64]:
    return np.zeros(0)


@dataclass(frozen=True)
class RoiSample:
    """One image with its ROIs."""

    image_index: int
    image_id: int
    file_name: str
    image: NDArray[np.uint8]  # [H, W, 3] RGB, the extractor's input size; empty where not needed
    transform: Transform  # original -> input pixels
    original_size: tuple[int, int]  # (H, W)
    rois: Boxes  # [r, 4] input pixels
    targets: NDArray[np.uint8]  # [r, h, w] in the decoder's frame
    truths: list[dict[str, Any]] = field(default_factory=list)  # RLE [r] at original size (evaluation only)
    # [r, *metric_size] targets on a grid over each ROI, which metrics compare with (evaluation only)
    measured: NDArray[np.uint8] = field(default_factory=_no_targets)
    annotation_ids: NDArray[np.int64] = field(default_factory=_no_ids)  # [r] (evaluation only)
    # [r] share 0..1 of the cells of `measured` that other persons cover (evaluation only)
    non_target_shares: NDArray[np.float64] = field(default_factory=_no_shares)
    pixel_size: float = 1.0  # of an input pixel: micrometres, or original pixels where those are not known
    cache_key: Key | None = None  # of its features, if they may be kept
    found: Lookup = field(default_factory=lambda: Lookup(False))  # what the feature cache holds of them
    rows: NDArray[np.int64] = field(default_factory=_no_ids)  # [r] of a close-up: which ROIs of its sample
    close_ups: Sequence[RoiSample] = ()  # enlarged parts of the image, with some of its ROIs
    skipped: str = ""  # why the image could not be used (data.on_error=skip): it is blank and has no ROIs


@dataclass
class RoiBatch:
    """Images, and the ROIs that hang on them, sorted by image."""

    images: Tensor  # uint8 [P, H, W, 3] RGB of the samples that have an image, in order
    rois: Tensor  # float32 [R, 5] image index, x1, y1, x2, y2 in input pixels
    targets: Tensor  # uint8 [R, h, w] in the decoder's frame
    samples: Sequence[RoiSample]  # for what only some readers need: names, transforms, truths
    measured: Tensor = field(default_factory=lambda: torch.from_numpy(_no_targets()))  # see RoiSample
    pixel_sizes: Tensor = field(default_factory=lambda: torch.ones(0))  # float32 [B], see RoiSample
    pictured: Sequence[bool] = ()  # [B] which samples have an image
    stored: Tensor = _NOTHING  # uint8 [S, row bytes] encoded features that the loader found, in order
    features: tuple[Tensor, ...] = ()  # [B, C_l, H_l, W_l] a layer, set once the extractor has run
    inputs: Tensor | None = None  # float32 [P, 3, H, W], the detector's input tensor, set with the features
    rows: Tensor = _NO_ROWS  # int64 [R] of close-ups: which ROI of the batch they belong to
    close_ups: RoiBatch | None = None  # more looks at some of the ROIs, if predictions are to be averaged
    mirrored: RoiBatch | None = None  # the same ROIs in flipped images, if predictions are to be averaged
    skipped: Sequence[str] = ()  # why images were left out, one text each

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RoiBatch:
        """Return the batch with its tensors on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            images=move(self.images),
            rois=move(self.rois),
            targets=move(self.targets),
            measured=move(self.measured),
            pixel_sizes=move(self.pixel_sizes),
            stored=move(self.stored),
            features=tuple(move(f) for f in self.features),
            inputs=None if self.inputs is None else move(self.inputs),
            rows=move(self.rows),
            close_ups=None if self.close_ups is None else self.close_ups.to(device, non_blocking),
            mirrored=None if self.mirrored is None else self.mirrored.to(device, non_blocking),
        )

    def pin_memory(self) -> RoiBatch:
        """Return the batch in page-locked memory."""
        return replace(
            self,
            images=self.images.pin_memory(),
            rois=self.rois.pin_memory(),
            targets=self.targets.pin_memory(),
            measured=self.measured.pin_memory(),
            pixel_sizes=self.pixel_sizes.pin_memory(),
            stored=self.stored.pin_memory(),
            rows=self.rows.pin_memory(),
            close_ups=None if self.close_ups is None else self.close_ups.pin_memory(),
        )

    def keep_for_current_stream(self) -> None:
        """Tell CUDA's allocator that tensors made on another stream are used on the current one."""
        tensors = (
            self.rows,
            self.rois,
            self.targets,
            self.measured,
            self.pixel_sizes,
            self.inputs,
            *self.features,
        )
        for tensor in tensors:
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        for other in (self.close_ups, self.mirrored):
            if other is not None:
                other.keep_for_current_stream()

    @property
    def metric_size(self) -> tuple[int, int]:
        """(h, w) of the metric grid over each ROI (evaluation only)."""
        return self.measured.shape[1], self.measured.shape[2]

    def original_boxes(self, boxes: Tensor | None = None) -> list[Boxes]:
        """Boxes [R, 4] that belong to the ROIs (default: the ROIs), by image, in its original pixels."""
        given = (self.rois[:, 1:] if boxes is None else boxes).cpu().numpy()
        images = self.rois[:, 0].cpu().numpy()
        return [sample.transform.inverse().boxes(given[images == i]) for i, sample in enumerate(self.samples)]


@dataclass(frozen=True)
class RoiPrediction:
    """What a model predicts for the R ROIs of a batch.

    Attributes:
        target: [R, h, w] probability of the target.
        non_target: [R, h, w] probability of other persons; None for a model that does not tell them apart.
        extents: [R, 4] boxes in input pixels that both are stretched over.
        grid_target: [R, *metric_size] probability of the target on the metric grid over each ROI.
        grid_classes: int64 [R, *metric_size] most probable class there.
    """

    target: Tensor
    non_target: Tensor | None
    extents: Tensor
    grid_target: Tensor
    grid_classes: Tensor

    def cpu(self) -> RoiPrediction:
        """Return the same on the CPU."""
        others = None if self.non_target is None else self.non_target.cpu()
        return RoiPrediction(
            self.target.cpu(), others, self.extents.cpu(), self.grid_target.cpu(), self.grid_classes.cpu()
        )


def close_up(
    sample: RoiSample, image: NDArray[np.uint8], transform: Transform, rois: Boxes, rows: NDArray[np.int64]
) -> RoiSample:
    """An enlarged part of a sample's image, with those of its ROIs that are seen in it.

    Args:
        sample: the whole image.
        image: [H, W, 3] RGB, the part at the extractor's input size.
        transform: original -> input pixels of the part.
        rois: [r, 4] all ROIs of the sample in original pixels.
        rows: which of them are seen.
    """
    return replace(
        sample,
        image=image,
        transform=transform,
        rois=transform.boxes(rois[rows]),
        targets=sample.targets[:0],
        pixel_size=sample.pixel_size * sample.transform.scale / transform.scale,
        cache_key=None,
        found=Lookup(False),
        rows=rows,
    )


def collate(samples: Sequence[RoiSample]) -> RoiBatch:
    """Join samples into a batch, but for those that are skipped; of those only, one blank image stays."""
    skipped = [sample.skipped for sample in samples if sample.skipped]
    samples = [sample for sample in samples if not sample.skipped] or samples[:1]
    pictures = [sample.image for sample in samples if sample.image.size]
    stored = [sample.found.row for sample in samples if sample.found.row is not None]
    rois = [np.insert(sample.rois, 0, i, axis=1) for i, sample in enumerate(samples)]
    close_ups = _close_ups(samples)
    return RoiBatch(
        images=torch.from_numpy(np.stack(pictures)) if pictures else _NO_IMAGES,
        rois=torch.from_numpy(np.concatenate(rois).astype(np.float32)),
        targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples])),
        measured=torch.from_numpy(np.concatenate([sample.measured for sample in samples])),
        pixel_sizes=torch.tensor([sample.pixel_size for sample in samples], dtype=torch.float32),
        pictured=[sample.image.size > 0 for sample in samples],
        stored=torch.from_numpy(np.stack(stored)) if stored else _NOTHING,
        samples=[_without_arrays(sample) for sample in samples],
        rows=torch.from_numpy(np.concatenate([sample.rows for sample in samples])),
        close_ups=collate(close_ups) if close_ups else None,
        skipped=skipped,
    )


def _close_ups(samples: Sequence[RoiSample]) -> list[RoiSample]:
    """The close-ups of several samples, whose rows count through the ROIs of all of them."""
    first = np.cumsum([0, *(len(sample.rois) for sample in samples)])
    return [
        replace(part, rows=start + part.rows)
        for start, sample in zip(first, samples, strict=False)
        for part in sample.close_ups
    ]


def _without_arrays(sample: RoiSample) -> RoiSample:
    """The sample without what the batch has joined."""
    nothing = sample.image[:0]
    return replace(
        sample,
        image=nothing,
        targets=sample.targets[:0],
        measured=sample.measured[:0],
        found=Lookup(sample.found.held),
        close_ups=(),
    )
