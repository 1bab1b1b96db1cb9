"""The data that passes between loader and decoder: samples (one image), batches and predictions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roiseg.extractor.cache.base import CacheKey, CacheResult
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Transform


def _no_targets() -> NDArray[np.uint8]:
    return np.zeros((0, 1, 1), np.uint8)


@dataclass(frozen=True)
class RoiTruth:
    """The annotation of an image's ROIs, for evaluation."""

    annotation_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    rles: Sequence[dict[str, Any]] = ()  # [r] masks at original size
    # uint8 [r, *metric_size] classes on a grid over each ROI, which metrics compare with
    metric_targets: NDArray[np.uint8] = field(default_factory=_no_targets)
    # [r] share (0..1) of these cells that other persons cover
    non_target_shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class RoiSample:
    """One image with its ROIs."""

    # which image, in its annotations
    image_index: int
    image_id: int
    file_name: str
    image: NDArray[np.uint8]  # [H, W, 3] RGB at the extractor's input size; empty if its features are cached
    transform: Transform
    original_size: tuple[int, int]  # (H, W)
    rois: Boxes  # [r, 4] input pixels
    targets: NDArray[np.uint8]  # [r, h, w] in the decoder's frame
    pixel_size: float = 1.0  # size of an input pixel in micrometres, or in original pixels if that is unknown
    truth: RoiTruth = RoiTruth()  # the annotation, in evaluation
    cache_key: CacheKey | None = None  # key of its features, if they can be cached
    cached: CacheResult = field(default_factory=lambda: CacheResult(False))  # the result of looking them up
    views: Sequence[RoiSample] = ()  # enlarged crops for test-time augmentation, each with some of the ROIs
    # [r] in a view, the indices of its ROIs in the sample
    parent_roi: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    skipped: str = ""  # why the image was skipped (data.on_error=skip); it is then blank and has no ROIs


@dataclass
class RoiBatch:
    """Images and their ROIs, sorted by image."""

    images: Tensor  # uint8 [P, H, W, 3] RGB of the samples that have an image, in order
    rois: Tensor  # float32 [R, 5] image index, x1, y1, x2, y2 in input pixels
    targets: Tensor  # uint8 [R, h, w] in the decoder's frame
    # names, transforms and annotated masks, without the arrays that the batch has joined
    samples: Sequence[RoiSample]
    # uint8 [R, *metric_size] (evaluation only), see `RoiTruth`
    metric_targets: Tensor = field(default_factory=lambda: torch.from_numpy(_no_targets()))
    pixel_sizes: Tensor = field(default_factory=lambda: torch.ones(0))  # float32 [B], see `RoiSample`
    # uint8 [S, row bytes] encoded features found by the loader, in order
    cached_rows: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.uint8))
    features: tuple[Tensor, ...] = ()  # [B, C_l, H_l, W_l] per layer, set after extraction
    inputs: Tensor | None = None  # float32 [P, 3, H, W] the detector's input tensor, set with the features
    views: tuple[RoiBatch, ...] = ()  # other views of all or some of the ROIs, for test-time augmentation
    # int64 [R] in a view, the indices of its ROIs in the batch; None: all, in order
    parent_roi: Tensor | None = None
    hflipped: bool = False  # whether the images of this view are flipped left to right
    skipped: Sequence[str] = ()  # one text per skipped image

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> RoiBatch:
        """Return the batch, and its views, with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, RoiBatch):
                return value.map_tensors(change)
            return tuple(map(changed, value)) if isinstance(value, tuple) else value

        return RoiBatch(**{item.name: changed(getattr(self, item.name)) for item in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RoiBatch:
        """Return the batch with its tensors on `device`."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RoiBatch:
        """Return the batch in page-locked memory."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())

    def keep_for_current_stream(self) -> None:
        """Tell CUDA's allocator that tensors from another stream are used on the current one."""

        def keep(tensor: Tensor) -> Tensor:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
            return tensor

        self.map_tensors(keep)

    @property
    def metric_size(self) -> tuple[int, int]:
        """Return (h, w) of the metric grid over each ROI (evaluation only)."""
        return self.metric_targets.shape[1], self.metric_targets.shape[2]

    def original_boxes(self, boxes: Tensor | None = None) -> list[Boxes]:
        """Return boxes [R, 4] of the ROIs (by default the ROIs themselves) per image, in original pixels."""
        given = (self.rois[:, 1:] if boxes is None else boxes).cpu().numpy()
        images = self.rois[:, 0].cpu().numpy()
        return [sample.transform.inverse().boxes(given[images == i]) for i, sample in enumerate(self.samples)]


@dataclass(frozen=True)
class RoiPrediction:
    """What a model predicts for the R ROIs of a batch."""

    target: Tensor  # [R, h, w] probability of the target
    non_target: Tensor | None  # [R, h, w] probability of other persons; None for a model without that class
    extents: Tensor  # [R, 4] boxes in input pixels over which both are stretched
    grid_target: Tensor  # [R, *metric_size] probability of the target on the metric grid over each ROI
    grid_classes: Tensor  # int64 [R, *metric_size] most probable class there
    # [R, 3, h, w] what the other ROIs say, for `Votes`; None: computed when a decision needs them
    votes: Tensor | None = None
    decided: Tensor | None = None  # [R, h, w] values of a `Decision`; None: no decision was made
    scores: Tensor | None = None  # [R] predicted IoU of the masks, 0 to 1, if a decision was made
    exclusive: bool = False  # each pixel of an image belongs to one mask at most

    @property
    def masks(self) -> Tensor:
        """Return values [R, h, w] that are 0.5 or more inside the masks."""
        return self.target if self.decided is None else self.decided

    def classes(self) -> Tensor:
        """Return the probabilities of all classes, [R, K, h, w]."""
        others = [] if self.non_target is None else [self.non_target]
        return torch.stack([1 - sum(others, start=self.target), self.target, *others], dim=1)

    def cpu(self) -> RoiPrediction:
        """Return a copy on the CPU."""
        return self.map_tensors(lambda tensors: tensors[0].cpu(), self)

    @staticmethod
    def map_tensors(change: Callable[[list[Tensor]], Tensor], *predictions: RoiPrediction) -> RoiPrediction:
        """Return the prediction made by a change of the tensors of each field of some predictions."""
        first = predictions[0]
        changed: dict[str, Any] = {
            item.name: change([getattr(prediction, item.name) for prediction in predictions])
            for item in fields(first)
            if isinstance(getattr(first, item.name), Tensor)
        }
        return replace(first, **changed)


def collate(samples: Sequence[RoiSample]) -> RoiBatch:
    """Join the samples that are not skipped into a batch; if all are skipped, keep one blank image."""
    skipped = [sample.skipped for sample in samples if sample.skipped]
    samples = [sample for sample in samples if not sample.skipped] or samples[:1]
    rois = [np.insert(sample.rois, 0, i, axis=1) for i, sample in enumerate(samples)]
    return RoiBatch(
        images=_stack([sample.image for sample in samples if sample.image.size], (0, 1, 1, 3)),
        rois=torch.from_numpy(np.concatenate(rois).astype(np.float32)),
        targets=torch.from_numpy(np.concatenate([sample.targets for sample in samples])),
        metric_targets=torch.from_numpy(np.concatenate([s.truth.metric_targets for s in samples])),
        pixel_sizes=torch.tensor([sample.pixel_size for sample in samples], dtype=torch.float32),
        cached_rows=_stack([s.cached.row for s in samples if s.cached.row is not None], (0, 0)),
        samples=[_without_arrays(sample) for sample in samples],
        views=_views(samples),
        skipped=skipped,
    )


def _stack(arrays: Sequence[NDArray[np.uint8]], empty: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)) if arrays else torch.zeros(empty, dtype=torch.uint8)


def _views(samples: Sequence[RoiSample]) -> tuple[RoiBatch, ...]:
    """Join all views into one batch whose `parent_roi` indexes the ROIs of all samples."""
    first = itertools.accumulate((len(sample.rois) for sample in samples), initial=0)
    views = [(view, start) for start, sample in zip(first, samples, strict=False) for view in sample.views]
    if not views:
        return ()
    parents = np.concatenate([start + view.parent_roi for view, start in views])
    return (replace(collate([view for view, _ in views]), parent_roi=torch.from_numpy(parents)),)


def _without_arrays(sample: RoiSample) -> RoiSample:
    """Return the sample without the arrays that the batch has joined."""
    return replace(
        sample,
        image=sample.image[:0],
        targets=sample.targets[:0],
        truth=replace(sample.truth, metric_targets=sample.truth.metric_targets[:0]),
        cached=CacheResult(sample.cached.hit),
        views=(),
    )
