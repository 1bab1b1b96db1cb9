"""The image-wise dataset: an image, its ROIs and their targets."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from roiseg.common.classes import BACKGROUND, NON_TARGET
from roiseg.common.errors import UserError
from roiseg.common.files import image_path, missing_files, require_dir
from roiseg.data.annotations import Annotations
from roiseg.data.augment import View, Views
from roiseg.data.batch import RoiSample, RoiTruth
from roiseg.data.images import DamagedImage, image_digest, read_image
from roiseg.data.samplers import RoiSampler
from roiseg.data.scene_composer import ComposedImage, SceneComposer
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.data.tta import TTA
from roiseg.extractor.cache.base import CacheKey, CacheResult, FeatureCache
from roiseg.geometry import boxes as box_ops


def check_image_files(
    annotations: Annotations, image_dir: str | Path, min_roi_size: float, skip_damaged: bool
) -> Path:
    """Check that the images with ROIs exist; returns their folder.

    Args:
        image_dir: folder that their file names are relative to.
        min_roi_size: see `RoiDataset`.
        skip_damaged: some of them may be missing.

    Raises:
        UserError: the folder or an image is missing.
    """
    folder = require_dir(image_dir, "image", "set data.train_images / data.val_images")
    names = annotations.file_names[np.flatnonzero(annotations.eligible_counts(min_roi_size))].tolist()
    missing = missing_files(folder, names)
    if missing and not (skip_damaged and len(missing) < len(names)):
        raise UserError(
            f"{len(missing)} of {len(names)} images of {annotations.path} are not in "
            f"{folder}, the first is {missing[0]}: check the image folder"
        )
    return folder


def image_files(annotations: Annotations, folder: Path) -> list[Path]:
    """Return the files of all images of a set, whose names are relative to `folder`."""
    return [image_path(folder, name) for name in annotations.file_names.tolist()]


class RoiDataset(Dataset[RoiSample]):
    """Images with at least one instance large enough to be a ROI.

    An item depends only on (seed, epoch, image id), not on the worker, the order or earlier items, and on
    other images of the set only if people are pasted from them. A resumed run is therefore equal to an
    uninterrupted one.

    Args:
        views: samples and renders the detector's input.
        min_roi_size: smallest side of a ROI in original pixels; smaller instances are only non-target of
            others.
        sampler: samples the ROIs of a training item; None gives every eligible box once, unchanged, with
            its true mask (evaluation).
        needs_images: load the image even if its features are cached.
        skip_damaged: replace an item whose image is missing or damaged by a blank one without ROIs that says
            why, instead of raising.

    Raises:
        UserError: the folder or an image (with `skip_damaged`: every image) is missing, or no instance is
            large enough.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        views: Views,
        spec: TargetSpec,
        min_roi_size: float = 16,
        sampler: RoiSampler | None = None,
        seed: int = 0,
        cache: FeatureCache | None = None,
        needs_images: bool = False,
        skip_damaged: bool = False,
    ) -> None:
        self.annotations = annotations
        self.image_dir = check_image_files(annotations, image_dir, min_roi_size, skip_damaged)
        self.views = views
        self.spec = spec
        self.min_roi_size = min_roi_size
        self.sampler = sampler
        self.seed = seed
        self.cache = cache
        self.needs_images = needs_images
        self.skip_damaged = skip_damaged
        self.tta: TTA | None = None
        counts = annotations.eligible_counts(min_roi_size)
        self.images = np.flatnonzero(counts)  # index into annotations of each item
        self.num_rois = int(counts.sum())
        if not self.num_rois:
            raise UserError(
                f"no instance in {annotations.path} has both sides of {min_roi_size} pixels or more: "
                "lower data.min_roi_size or give another file"
            )
        self.scenes = SceneComposer(annotations, self.image_dir, min_roi_size, views.augment.paste)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int] | int) -> RoiSample:
        """Return an item by index (epoch 0) or by (epoch, index)."""
        epoch, item = key if isinstance(key, tuple) else (0, key)
        index = int(self.images[item])
        try:
            return self._sample(index, epoch)
        except DamagedImage as error:
            if not self.skip_damaged:
                raise
            return self._skipped(index, str(error))

    def _sample(self, index: int, epoch: int) -> RoiSample:
        image_id = int(self.annotations.image_ids[index])
        identity = image_id % 2**64  # numpy's seeds are not negative
        rng = np.random.default_rng((self.seed, epoch, identity))
        size = self.annotations.size(index)
        file_name = str(self.annotations.file_names[index])
        variant, view_rng = self.views.choose(identity, epoch, rng)
        scene = self.scenes.sample(index, view_rng)
        view = self.views.sample(scene.boxes, scene.eligible, size, view_rng)
        transform, eligible = view.transform, view.eligible
        cache_key, found = self._look_up(image_path(self.image_dir, file_name), variant, view, scene)
        original = image = np.zeros((0, 0, 3), np.uint8)
        if self.needs_images or not found.hit:
            cv2.setNumThreads(0)  # workers are the parallelism
            original = read_image(image_path(self.image_dir, file_name), size)
            image = self.views.render(self.scenes.render(original, scene), view)
        boxes = transform.boxes(scene.boxes)
        if self.sampler is None:
            rois, target_index = boxes[eligible], eligible
        else:
            visible = box_ops.clip(boxes, self.views.letterbox.size)
            rois, target_index = self.sampler.sample(visible, eligible, rng, self.views.letterbox.size)
        rasterize = functools.partial(
            rasterize_targets,
            outlines=scene.outlines,
            crowd=scene.crowd,
            transform=transform,
            rois=rois,
            target_index=target_index,
        )
        targets = rasterize(self.spec)
        pixel_size = float(self.annotations.pixel_sizes[index]) / transform.scale
        sample = RoiSample(
            index, image_id, file_name, image, transform, size, rois, targets,
            pixel_size=pixel_size, cache_key=cache_key, cached=found,
        )  # fmt: skip
        if self.sampler is not None:
            return sample
        metric_targets = rasterize(replace(self.spec.metric_spec(), num_classes=3))
        others = metric_targets == NON_TARGET
        if self.spec.num_classes < 3:
            metric_targets[others] = BACKGROUND
        rles = [scene.outlines.rle(int(i)) for i in target_index]
        truth = RoiTruth(scene.ids[target_index], rles, metric_targets, others.mean(axis=(1, 2)))
        sample = replace(sample, truth=truth)
        if self.tta is None:
            return sample
        rois = scene.boxes[target_index]
        return replace(sample, views=self.tta.crops(sample, original, self.views.letterbox, rois))

    def _skipped(self, index: int, why: str) -> RoiSample:
        """Return a blank image without ROIs in place of an image that cannot be used."""
        size, letterbox = self.annotations.size(index), self.views.letterbox
        transform = letterbox.fit(*size)
        no_targets = np.zeros((0, *self.spec.metric_spec().size), np.uint8)
        return RoiSample(
            index, int(self.annotations.image_ids[index]), str(self.annotations.file_names[index]),
            np.full((*letterbox.size, 3), letterbox.pad_value, np.uint8), transform, size,
            np.zeros((0, 4), np.float32), np.zeros((0, *self.spec.size), np.uint8),
            truth=RoiTruth(metric_targets=no_targets), skipped=why,
        )  # fmt: skip

    def for_test(self, tta: TTA) -> RoiDataset:
        """Return the same data set, whose items have their images, and crops of small ROIs."""
        twin = copy.copy(self)
        twin.needs_images, twin.tta = True, tta
        return twin

    def with_images(self) -> RoiDataset:
        """Return the same data set, whose items have their images and bypass the cache."""
        twin = copy.copy(self)
        twin.cache, twin.needs_images = None, True
        return twin

    def _look_up(
        self, path: Path, variant: int, view: View, scene: ComposedImage
    ) -> tuple[CacheKey | None, CacheResult]:
        """Return the key of a view's features, and what the cache has of them."""
        if self.cache is None or not self.views.number:
            return None, CacheResult(False)
        # folds of a cross-validation have other cutouts, and share the images without any
        name = (str(path.absolute()), self.views.key(variant), *self.scenes.key(scene))
        fingerprint = (image_digest(path), view.transform, view.colour_seed, *self.scenes.fingerprint(scene))
        key = CacheKey.of(name, fingerprint)
        return key, self.cache.get(key)
