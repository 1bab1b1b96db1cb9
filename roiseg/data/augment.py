"""Image augmentation, and the view of an image that the extractor gets.

Geometry is one axis-aligned `Transform` in place of the plain letterbox, so outlines, boxes and ROIs
follow it exactly and nothing is resampled twice. Colour, blur and noise come from kornia. People of other
images are pasted in before all that (`roiseg.data.copy_paste`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import nn

from roiseg.common.types import Range, Seed, Share
from roiseg.data.copy_paste import CopyPaste
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.transform import Letterbox, Transform


@dataclass(frozen=True)
class GeometricAugment:
    """Flip, zoom, change the aspect ratio and shift (crop) the whole image."""

    flip: Share = 0.5
    scale: Range = (1.0, 1.0)  # (low, high) zoom relative to the letterbox, log-uniform; above 1 crops
    aspect: NonNegativeFloat = 0.0  # width is multiplied by a factor within 1 / (1 + aspect) .. 1 + aspect
    # share (0..1) of the padding or overhang by which the image may move; 0 keeps it centred
    shift: Share = 1.0

    def sample(self, letterbox: Letterbox, size: tuple[int, int], rng: np.random.Generator) -> Transform:
        """Sample the transform for an image of `size` (H, W) original pixels."""
        height, width = size
        fit = letterbox.fit(height, width)
        zoom = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        stretch = math.exp(rng.uniform(-1, 1) * math.log1p(self.aspect))
        new_w = max(1, round(width * fit.scale_x * zoom * stretch))
        new_h = max(1, round(height * fit.scale_y * zoom))
        top = self._offset(letterbox.size[0] - new_h, rng)
        left = self._offset(letterbox.size[1] - new_w, rng)
        if rng.random() < self.flip:
            return Transform(-new_w / width, new_h / height, float(left + new_w), float(top))
        return Transform(new_w / width, new_h / height, float(left), float(top))

    def _offset(self, room: int, rng: np.random.Generator) -> int:
        """Return where the image starts along an axis with `room` pixels to spare (negative: overhang)."""
        return round(room / 2 + room / 2 * self.shift * rng.uniform(-1, 1))


class PhotometricAugment:
    """Apply kornia image augmentations in sequence to a single image.

    Args:
        transforms: modules float [1, 3, H, W] RGB in 0..1 -> the same; each samples its probability and
            strength from torch's random state.
    """

    def __init__(self, transforms: Sequence[nn.Module]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment an RGB image [H, W, 3]; the same seed gives the same image."""
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)  # the CPU's alone; a GPU's state is not forked
            for transform in self.transforms:
                tensor = transform(tensor)
        return (tensor[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Augment:
    """Everything that changes a training image; any part may be None."""

    geometric: GeometricAugment | None = None
    photometric: PhotometricAugment | None = None
    paste: CopyPaste | None = None


@dataclass(frozen=True)
class AugmentationPool:
    """Each training image has `size` augmented views, one of which is sampled every epoch.

    The features of a view are computed when it is first sampled, and cached.
    """

    size: PositiveInt = 16
    # epochs after which a view is replaced by a new one, a part of the views each epoch; None keeps them for
    # good
    refresh: PositiveInt | None = None
    seed: Seed = 0  # of the views; independent of the run's, so that runs with other seeds reuse the features

    def sample(self, rng: np.random.Generator, epoch: int) -> tuple[int, int]:
        """Return the view of an image: its number, and how often it has been replaced by then."""
        variant = int(rng.integers(self.size))
        if self.refresh is None:
            return variant, 0
        return variant, (epoch + variant * self.refresh // self.size) // self.refresh


# A view in which a person keeps less than this share of its box is not used as a ROI.
_MIN_VISIBLE = 0.4
_TRIES = 8


@dataclass(frozen=True)
class View:
    """One view of an image."""

    transform: Transform
    eligible: NDArray[np.int64]  # positions of the instances that can be a ROI in it
    colour_seed: int | None = None  # seed of the photometric changes, if any


@dataclass(frozen=True)
class Views:
    """Samples views of images and renders them."""

    letterbox: Letterbox  # fits an image into the extractor's input
    augment: Augment
    pool: AugmentationPool | None = None  # how many augmented views an image has; None: a new one every time

    @property
    def number(self) -> int:
        """Return the number of recurring (cacheable) views per image; 0 if every view is new."""
        if self.pool is not None:
            return self.pool.size
        return 1 if self.augment == Augment() else 0

    def choose(self, image: int, epoch: int, rng: np.random.Generator) -> tuple[int, np.random.Generator]:
        """Return the number of an image's view in an epoch (0 without a pool) and its random generator."""
        if self.pool is None:
            return 0, rng
        variant, generation = self.pool.sample(rng, epoch)
        return variant, np.random.default_rng((self.pool.seed, image, variant, generation, 1))

    def sample(
        self, boxes: Boxes, eligible: NDArray[np.int64], size: tuple[int, int], rng: np.random.Generator
    ) -> View:
        """Sample a view of an image.

        Args:
            boxes: [n, 4] boxes of its instances in original pixels.
            eligible: positions in `boxes` that can be a ROI in the whole image.
            size: (H, W) of the image in original pixels.
        """
        transform, visible = self._sample_geometry(boxes, eligible, size, rng)
        colour_seed = None if self.augment.photometric is None else int(rng.integers(2**31))
        return View(transform, visible, colour_seed)

    def render(self, original: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
        """Render an image [h, w, 3] as the input [H, W, 3]."""
        image = self.letterbox.apply(original, view.transform)
        if self.augment.photometric is None or view.colour_seed is None:
            return image
        return self.augment.photometric(image, seed=view.colour_seed)

    def key(self, variant: int) -> object:
        """Return the part of a cache key that names a view: the plain one, or one of the pool."""
        if self.pool is None:
            return "plain"
        colours = self.augment.photometric.transforms if self.augment.photometric else ()
        return variant, self.pool.seed, repr(self.augment.geometric), repr(colours)

    def _sample_geometry(
        self, boxes: Boxes, eligible: NDArray[np.int64], size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Transform, NDArray[np.int64]]:
        if self.augment.geometric is not None:
            for _ in range(_TRIES):
                transform = self.augment.geometric.sample(self.letterbox, size, rng)
                whole = transform.boxes(boxes[eligible])
                visible = box_ops.area(box_ops.clip(whole, self.letterbox.size))
                kept = eligible[visible >= _MIN_VISIBLE * box_ops.area(whole)]
                if len(kept):
                    return transform, kept
        return self.letterbox.fit(*size), eligible
