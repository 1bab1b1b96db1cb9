"""The image-wise dataset: a picture, its ROIs and their targets."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from roiseg.common.errors import UserError
from roiseg.common.files import existing_dir
from roiseg.data.annotations import Annotations
from roiseg.data.augment import Augment
from roiseg.data.batch import RoiSample
from roiseg.data.images import read_image
from roiseg.data.sampling import RoiSampler
from roiseg.data.targets import TargetSpec, draw_targets
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.letterbox import Letterbox, Transform

# An augmented view in which a person keeps less than this share of its box is not used as a ROI.
_MIN_VISIBLE = 0.4
_VIEW_TRIES = 8


class RoiDataset(Dataset[RoiSample]):
    """Images with at least one instance large enough to be a ROI.

    An item depends on (seed, epoch, image) only: not on the worker, the order, or what ran before.
    That is what makes a resumed run equal to an uninterrupted one.

    Args:
        annotations: the instances.
        image_dir: folder their file names are relative to.
        letterbox: how an image is brought to the extractor's input size.
        spec: where targets are drawn.
        min_roi_size: smallest side of a ROI in original pixels; smaller instances are shown to
            others as non-target only.
        sampler: draws the ROIs of a training item; None gives every eligible box once, exact, and
            the true masks beside it (evaluation).
        augment: changes of the training picture.
        seed: root of all randomness.

    Raises:
        UserError: the folder or an image is missing, or no instance is large enough.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        letterbox: Letterbox,
        spec: TargetSpec,
        min_roi_size: float = 16,
        sampler: RoiSampler | None = None,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.annotations = annotations
        self.image_dir = existing_dir(image_dir, "image", "set data.train_images / data.val_images")
        self.letterbox = letterbox
        self.spec = spec
        self.min_roi_size = min_roi_size
        self.sampler = sampler
        self.augment = augment or Augment()
        self.seed = seed
        counts = [len(annotations.eligible(i, min_roi_size)) for i in range(len(annotations))]
        self.images = np.flatnonzero(counts)  # index into annotations of each item
        self.num_rois = int(sum(counts))
        if not self.num_rois:
            raise UserError(
                f"no instance in {annotations.path} has both sides of {min_roi_size} pixels or more: "
                "lower data.min_roi_size or give another file"
            )
        self._check_files()

    def _check_files(self) -> None:
        present = set(os.listdir(self.image_dir))
        names = [str(self.annotations.file_names[i]) for i in self.images]
        missing = [n for n in names if n not in present and not (self.image_dir / n).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(names)} images of {self.annotations.path} are not in "
                f"{self.image_dir}, the first is {missing[0]}: check the image folder"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int] | int) -> RoiSample:
        """Return an item by index (epoch 0) or by (epoch, index)."""
        epoch, item = key if isinstance(key, tuple) else (0, key)
        index = int(self.images[item])
        cv2.setNumThreads(0)  # workers are the parallelism
        rng = np.random.default_rng((self.seed, epoch, index))
        size = self.annotations.size(index)
        file_name = str(self.annotations.file_names[index])
        picture = read_image(self.image_dir / file_name, size)
        transform, eligible = self._view(index, size, rng)
        image = self.letterbox.apply(picture, transform)
        if self.augment.photometric is not None:
            image = self.augment.photometric(image, seed=int(rng.integers(2**31)))
        boxes = transform.boxes(self.annotations.pixel_boxes(index))
        if self.sampler is None:
            rois, owners = boxes[eligible], eligible
        else:
            visible = box_ops.clip(boxes, self.letterbox.size)
            rois, owners = self.sampler.draw(visible, eligible, rng, self.letterbox.size)
        instances = self.annotations.instances(index)
        shapes = [self.annotations.shape(index, i) for i in instances]
        draw = functools.partial(
            draw_targets,
            shapes=shapes,
            boxes=boxes,
            crowd=self.annotations.crowd[instances],
            transform=transform,
            rois=rois,
            owners=owners,
        )
        targets = draw(self.spec)
        pixel_size = float(self.annotations.pixel_sizes[index]) / transform.scale
        sample = RoiSample(index, file_name, image, transform, size, rois, targets, pixel_size=pixel_size)
        if self.sampler is not None:
            return sample
        measured = self.spec.metric_spec()
        return replace(
            sample,
            measured=targets if measured.grids_as(self.spec) else draw(measured),
            truths=[shapes[i].rle() for i in owners],
        )

    def _view(
        self, index: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Transform, np.ndarray]:
        """Draw how the picture is laid into the input, and which instances can be a ROI in that view."""
        eligible = self.annotations.eligible(index, self.min_roi_size)
        if self.augment.geometric is not None:
            boxes = self.annotations.pixel_boxes(index)[eligible]
            for _ in range(_VIEW_TRIES):
                transform = self.augment.geometric.draw(self.letterbox, size, rng)
                whole = transform.boxes(boxes)
                seen = box_ops.area(box_ops.clip(whole, self.letterbox.size))
                kept = eligible[seen >= _MIN_VISIBLE * box_ops.area(whole)]
                if len(kept):
                    return transform, kept
        return self.letterbox.fit(*size), eligible
