"""Image augmentation before the extractor sees the image.

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
from torch import nn

from roiseg.common.errors import UserError
from roiseg.data.copy_paste import CopyPaste
from roiseg.geometry.transform import Letterbox, Transform


@dataclass(frozen=True)
class GeometricAugment:
    """Flip, zoom, aspect change and shift (crop) of the whole image.

    Args:
        flip: probability of a left-right mirror image.
        scale: (low, high) zoom relative to the letterbox, drawn log-uniformly; above 1 crops.
        aspect: width is multiplied by a factor within 1 / (1 + aspect) .. 1 + aspect.
        shift: share (0..1) of the free room (padding or overhang) the image may move in; 0 keeps
            it centred.
    """

    flip: float = 0.5
    scale: Sequence[float] = (1.0, 1.0)
    aspect: float = 0.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(
                f"augment.geometric.scale must be [low, high] with 0 < low <= high, got {self.scale}"
            )
        for name, most in (("flip", 1), ("aspect", math.inf), ("shift", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(
                    f"augment.geometric.{name} must be within 0..{most}, got {getattr(self, name)}"
                )

    def draw(self, letterbox: Letterbox, size: tuple[int, int], rng: np.random.Generator) -> Transform:
        """Draw the transform for an image of `size` (H, W) original pixels."""
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
        """Where the image starts along an axis with `room` pixels to spare (negative: overhang)."""
        return round(room / 2 + room / 2 * self.shift * rng.uniform(-1, 1))


class PhotometricAugment:
    """Runs kornia image augmentations one after another on a single image.

    Args:
        transforms: modules float [1, 3, H, W] RGB in 0..1 -> the same; each draws its own
            probability and strength from torch's random state.
    """

    def __init__(self, transforms: Sequence[nn.Module]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment an RGB image [H, W, 3]; the same seed gives the same image."""
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)  # the CPU's alone; a GPU's state is not forked
            for transform in self.transforms:
                picture = transform(picture)
        return (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Augment:
    """Everything that changes a training image; any part may be None."""

    geometric: GeometricAugment | None = None
    photometric: PhotometricAugment | None = None
    paste: CopyPaste | None = None
