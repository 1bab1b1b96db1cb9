"""The LightningDataModule: annotated images plus features from the frozen extractor."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from roiseg.common.errors import UserError
from roiseg.common.files import DataSource, home_path
from roiseg.common.types import Size
from roiseg.data.annotation_loading import AnnotationReader, OpenedAnnotations, open_annotations
from roiseg.data.annotations import Annotations
from roiseg.data.augment import Augment, AugmentationPool, Views
from roiseg.data.batch import RoiBatch, RoiSample, collate
from roiseg.data.dataset import RoiDataset, check_image_files, image_files
from roiseg.data.feature_loader import FeatureLoader, FeatureSource, SkippedImages
from roiseg.data.feature_projection import fitted_projection
from roiseg.data.folds import Folds, join_annotations, limited, select_images
from roiseg.data.images import have_copies
from roiseg.data.samplers import EpochSampler, RoiSampler
from roiseg.data.targets import TargetSpec
from roiseg.data.tta import TTA, hflip
from roiseg.extractor.cache.base import FeatureCache
from roiseg.extractor.onnx_extractor import OnnxExtractor

log = logging.getLogger(__name__)


class RoiDataModule(L.LightningDataModule):
    """Training and validation batches whose features are computed once per image, on the device.

    Args:
        spec: the grid of the targets (the decoder's frame and grid).
        metric_size: (h, w) of the grid over each ROI on which validation counts pixels, the same for all
            decoders; None uses the decoder's own grid, which must be in the roi frame.
        index_dir: folder of annotation indices, which load instantly, and of projections of the features;
            None parses the files, and fits the projection, every time.
        crowd: how instances marked `iscrowd` are read, see `load_annotations`.
        min_roi_size: smallest side of a ROI in original pixels.
        pin_memory: page-lock batches for faster copies to a GPU.
        source: creates a missing data set if a path above is one of its files.
        cache: keeps features between epochs (on disk: between runs); None computes them every time.
        pool: number of augmented views a training image has; without it every view is new, and only
            the validation images' features are worth keeping.
        needs_images: batches contain all their images, for decoders that read them.
        folds: cross-validation: join training and validation images and split them again; None keeps the
            given split.
        train_limit: largest number of training images with ROIs; None: all. They are chosen by id, and
            smaller sets are contained in larger ones.
        tta: the test averages over these views; None uses the whole image only, as validation during training
            always does.
        on_error: effect of an image that is missing, damaged or does not match its record: "raise" ends the
            run, "skip" drops it from its batch with one warning per epoch. A training batch without images is
            a step without a gradient, so that steps and schedule stay those of the whole set.
        reader: the format of the annotation files; None is COCO json.
        extra_annotations: further training images, such as those of `coco_annotations.json` of predict; never
            held out, and not counted by `train_limit`. Images whose files are also among the training or the
            validation images are left out.
        extra_images: the folder of their images.
    """

    def __init__(
        self,
        train_annotations: str,
        train_images: str,
        val_annotations: str,
        val_images: str,
        extractor: OnnxExtractor,
        spec: TargetSpec,
        sampler: RoiSampler,
        augment: Augment | None = None,
        metric_size: Size | None = None,
        category_id: int = 1,
        index_dir: str | None = None,
        min_roi_size: NonNegativeFloat = 16,
        batch_size: PositiveInt = 8,
        val_batch_size: PositiveInt = 8,
        num_workers: NonNegativeInt = 2,
        pin_memory: bool = False,
        seed: int = 0,
        source: DataSource | None = None,
        cache: FeatureCache | None = None,
        pool: AugmentationPool | None = None,
        needs_images: bool = False,
        folds: Folds | None = None,
        train_limit: PositiveInt | None = None,
        tta: TTA | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        crowd: Literal["region", "instance"] = "region",
        reader: AnnotationReader | None = None,
        extra_annotations: str | None = None,
        extra_images: str | None = None,
    ) -> None:
        super().__init__()
        self.paths = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
        if (extra_annotations is None) != (extra_images is None):
            raise UserError("data.extra_annotations and data.extra_images need each other: set both or none")
        if extra_annotations is not None and extra_images is not None:
            self.paths["extra"] = (extra_annotations, extra_images)
        self.extractor = extractor
        letterbox = extractor.preprocess.letterbox
        if metric_size is None and spec.frame != "roi":
            raise UserError("data.metric_size must be [h, w] for this decoder: its grid is not over the ROI")
        self.spec = (
            spec if metric_size is None else replace(spec, metric_size=(metric_size[0], metric_size[1]))
        )
        self.sampler = sampler
        if pool is not None and augment in (None, Augment()):
            raise UserError("data/pool needs augmentation: set data/augment")
        if pool is not None and cache is None:
            raise UserError("data/pool needs a feature cache: set data/cache")
        self.views = {
            "train": Views(letterbox, augment or Augment(), pool),
            "val": Views(letterbox, Augment()),
        }
        self.cache = cache
        self.needs_images = needs_images
        self.folds = folds
        self.train_limit = train_limit
        self.tta = tta
        self.on_error = on_error
        self.skipped = {split: SkippedImages(split) for split in ("train", "val", "test")}
        self.category_id = category_id
        self.index_dir = index_dir
        self.crowd = crowd
        self.reader = reader
        self.min_roi_size = min_roi_size
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.source = source
        self.device = torch.device("cpu")  # where batches are prepared without a trainer
        # where a resumed run starts: loader processes start before Lightning sets the sampler's epoch
        self.first_epoch, self.first_batch = 0, 0
        self._opened: dict[str, OpenedAnnotations] = {}
        self._sets: dict[str, RoiDataset] = {}
        self._features: FeatureSource | None = None
        self._caches_images = False  # beside their features; a test reads each only once

    def prepare_data(self) -> None:
        """Create the data set if it is missing (embedded default only)."""
        files = [path for pair in self.paths.values() for path in pair]
        if self.source is not None and any(self.source.makes(path) for path in files):
            self.source.ensure()

    def setup(self, stage: str | None = None) -> None:
        """Read and check both annotation files, so that mistakes are found before training starts.

        With `stage` "test", which reads every image once, only that of the test is read. Nothing is written
        until all files are checked.
        """
        if self._features is not None:
            return
        self._caches_images = self.needs_images and self.cache is not None and stage != "test"
        tested = ("val",) if self.folds is None else ("train", "val")
        for split in tested if stage == "test" else self.paths:
            self._opened[split] = self._open(split)
        if self.extractor.project is not None and self.extractor.projection is None:
            folder = None if self.index_dir is None else home_path(self.index_dir)
            self.extractor.projection = fitted_projection(self.extractor, self.dataset("train"), folder)
        self._features = FeatureSource(self.extractor, self.cache, self._caches_images)
        if stage == "test":
            self.dataset("val")
            return
        count = sum(views.number * len(self.dataset(split)) for split, views in self.views.items())
        if self.cache is not None and (missing := self.cache.plan(count)):
            seconds = self.extractor.seconds_per_image()
            log.info(
                "feature cache: filling it takes about %.1f min (detector: %.0f ms for each of %d images)",
                missing * seconds / 60, 1e3 * seconds, missing,
            )  # fmt: skip

    def dataset(self, split: str) -> RoiDataset:
        """Return the dataset of "train" or "val", which is read once."""
        if split not in self._sets:
            annotations, images = self._annotations(split)
            training = split == "train"
            self._sets[split] = RoiDataset(
                annotations,
                images,
                self.views[split],
                self.spec,
                self.min_roi_size,
                sampler=self.sampler if training else None,
                seed=self.seed,
                cache=self.cache,
                needs_images=self.needs_images and not self._caches_images,
                skip_damaged=self.on_error == "skip",
            )
        return self._sets[split]

    def _annotations(self, split: str) -> tuple[Annotations, Path]:
        """Return the annotations of a split and the folder of its images."""
        if self.folds is None:
            annotations, images = self._load(split)
        else:
            joined, images = join_annotations([self._load("train"), self._load("val")])
            annotations = self.folds.split(joined)[split]
        if split == "train" and self.train_limit is not None:
            annotations = limited(annotations, self.train_limit, self.min_roi_size)
        if split == "train" and "extra" in self.paths:
            return self._with_extra(annotations, images)
        return annotations, images

    def _with_extra(self, annotations: Annotations, images: Path) -> tuple[Annotations, Path]:
        """Add the images of `extra_annotations` that neither these annotations nor validation have."""
        held_out = self.dataset("val")
        extra, folder = self._load("extra")
        others = [*image_files(annotations, images), *image_files(held_out.annotations, held_out.image_dir)]
        new = np.flatnonzero(~have_copies(image_files(extra, folder), others))
        if not len(new):
            raise UserError(
                f"data.extra_annotations: all images of {extra.path} are also training or validation images"
            )
        log.info("%s: %d further training images, %d left out because they are training or validation images",
                 extra.path, len(new), len(extra) - len(new))  # fmt: skip
        chosen = select_images(extra, new)
        lowest = min(0, int(annotations.image_ids.min(initial=0)))
        own = replace(chosen, image_ids=lowest - 1 - np.arange(len(new)))  # ids of the others are not taken
        return join_annotations([(annotations, images), (own, folder)])

    def _load(self, split: str) -> tuple[Annotations, Path]:
        opened = self._opened.pop(split, None) or self._open(split)
        return opened.keep(), Path(self.paths[split][1])

    def _open(self, split: str) -> OpenedAnnotations:
        path, images = self.paths[split]
        opened = open_annotations(path, self.category_id, self.index_dir, self.crowd, self.reader)
        check_image_files(opened.content, images, self.min_roi_size, self.on_error == "skip")
        return opened

    def train_dataloader(self) -> FeatureLoader:
        """Return batches of images with K sampled ROIs each."""
        return self._loader(self.dataset("train"), self._prepare, "train")

    def val_dataloader(self) -> FeatureLoader:
        """Return batches of images with every eligible annotated box as a ROI."""
        return self._loader(self.dataset("val"), self._prepare, "val")

    def test_dataloader(self, shared: bool = True) -> FeatureLoader:
        """Return the validation images again, on which the best checkpoint is tested.

        Args:
            shared: among the processes of a distributed run; False: all images for this one.
        """
        dataset = self.dataset("val")
        if self.tta is None:
            return self._loader(dataset, self._prepare, "test", shared)
        return self._loader(dataset.for_test(self.tta), self._prepare_test, "test", shared)

    def _loader(
        self,
        dataset: RoiDataset,
        prepare: Callable[[RoiBatch], RoiBatch],
        stage: str,
        shared: bool = True,
    ) -> FeatureLoader:
        training = stage == "train"
        start = (self.first_epoch, self.first_batch * self.batch_size) if training else (0, 0)
        return FeatureLoader(
            dataset,
            prepare,
            ahead=_batches_ahead(self._device()),
            skipped=self.skipped[stage] if shared else SkippedImages(stage),  # counted once, by the test
            batch_size=self.batch_size if training else self.val_batch_size,
            sampler=EpochSampler(len(dataset), self.seed, training, *start, shared=shared),
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def _device(self) -> torch.device:
        return self.device if self.trainer is None else self.trainer.strategy.root_device

    def _prepare(self, batch: RoiBatch) -> RoiBatch:
        return self.extract(batch.to(self._device(), non_blocking=self.pin_memory))

    def _prepare_test(self, batch: RoiBatch) -> RoiBatch:
        whole = self._prepare(batch)
        views = whole.views
        if self.tta is not None and self.tta.hflip:
            views += tuple(hflip(view) for view in (whole, *views))
        return replace(whole, views=tuple(self.extract(view) for view in views))

    def extract(self, batch: RoiBatch) -> RoiBatch:
        """Fill in the features of a batch without any, on its device."""
        if not batch.features:
            self.setup()
            assert self._features is not None
            self._features.fill(batch)
        return batch

    def samples(self, split: str, items: Sequence[int]) -> list[RoiSample]:
        """Return single items of a split with their images, replacing skipped items by others."""
        dataset = self.dataset(split).with_images()
        others = (item for item in range(len(dataset)) if item not in items)
        found = (dataset[item] for item in itertools.chain(items, others))
        return list(itertools.islice((sample for sample in found if not sample.skipped), len(items)))


def _batches_ahead(device: torch.device) -> int:
    """Return how many batches to prepare ahead: none if that takes cores from the decoder."""
    return 0 if device.type == "cpu" else 1
