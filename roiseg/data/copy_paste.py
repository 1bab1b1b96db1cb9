"""Copy-paste augmentation: which people are pasted into an image, and where.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021. There, people are placed anywhere. Here, most stand beside a person of the image, at about the
same height and on the same ground, so that boxes overlap and both target and non-target are hard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from roiseg.common.files import image_path
from roiseg.common.types import Range, Share
from roiseg.data.annotations import Annotations
from roiseg.data.images import image_digest, read_image
from roiseg.geometry import rle
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.outlines import Grids, unpack
from roiseg.geometry.paste import Window, paste_window

_CELLS = 32  # per side of the grid on which a cutout is checked
_MIN_FILL = 0.25  # of its box; less is only a body part
_MAX_COVERED = 0.1  # of its mask by other persons, whose pixels would be pasted too
_TRIES = 8
# if no cutout is tall enough for a large neighbour, one of the tallest is taken: this share of them
_TALLEST = 0.25


class CutoutPool:
    """People that can be pasted: large enough, not a crowd, hardly covered by others.

    Args:
        annotations: the training set only; held-out images must not be used.
        min_size: smallest side of a cutout's box in original pixels.
    """

    def __init__(self, annotations: Annotations, image_dir: Path, min_size: float) -> None:
        self.annotations = annotations
        self.image_dir = image_dir
        large = annotations.all_eligible(min_size)
        boxes = annotations.all_pixel_boxes()[large]
        heights = boxes[:, 3] - boxes[:, 1]
        images = annotations.image_ids[np.searchsorted(annotations.first, large, "right") - 1]
        ids = annotations.ids[large]
        order = np.lexsort((ids, images, heights))  # independent of the order of the images
        self.instances, self.heights = large[order], heights[order]
        people = np.stack([images, ids], axis=1)[order].astype("<i8")
        self.name = xxhash.xxh3_64_hexdigest(people.tobytes())  # identifies this set of people

    def __len__(self) -> int:
        return len(self.instances)

    def sample(self, image: int, min_height: float, rng: np.random.Generator) -> int | None:
        """Sample an instance of another image, `min_height` pixels tall or else one of the tallest."""
        least = min(int(np.searchsorted(self.heights, min_height)), int((1 - _TALLEST) * len(self)))
        for _ in range(_TRIES):
            instance = int(self.instances[rng.integers(least, len(self))])
            if self.annotations.image_of(instance) != image and self.is_usable(instance):
                return instance
        return None

    def is_usable(self, instance: int) -> bool:
        """Tell whether it fills enough of its box and is hardly covered by others."""
        image = self.annotations.image_of(instance)
        position = instance - int(self.annotations.first[image])
        x1, y1, x2, y2 = self.annotations.pixel_boxes(image)[position].astype(np.float64)
        scale = np.array([[_CELLS / (x2 - x1), _CELLS / (y2 - y1)]])
        grids = Grids(scale, -scale * (x1, y1), (_CELLS, _CELLS))
        planes = self.annotations.outlines(image).planes(grids)
        own = planes[:, :, position]
        others = np.bitwise_or.reduce(np.delete(planes, position, axis=2), axis=2)
        cells = int(unpack(own).sum())
        covered = int(unpack(own & others).sum())
        return cells >= _MIN_FILL * _CELLS**2 and covered <= _MAX_COVERED * cells

    def window(self, instance: int) -> Window:
        """Return the window of its own image, in whole pixels, that contains its mask."""
        outline = self.annotations.outline(instance)
        polygons = outline.pixels(0)
        if not polygons:
            return rle.bounds(outline.rle(0))
        points = np.concatenate(polygons)
        return paste_window(np.concatenate([points.min(axis=0), points.max(axis=0)]), outline.size)

    def mask(self, instance: int, window: Window, size: tuple[int, int], mirrored: bool) -> NDArray[np.bool_]:
        """Rasterize its mask on a grid of `size` (h, w) cells stretched over a window of its image.

        A cell is set if its centre lies inside the outline.
        """
        x1, y1, x2, y2 = window
        scale = np.array([[size[1] / (x2 - x1), size[0] / (y2 - y1)]])
        shift = -scale * (x1, y1)
        if mirrored:
            scale[0, 0], shift[0, 0] = -scale[0, 0], size[1] - shift[0, 0]
        planes = self.annotations.outline(instance).planes(Grids(scale, shift, size))
        return unpack(planes[:, :, 0])[0, :, : size[0]].T.astype(bool)

    def path(self, instance: int) -> Path:
        """Return the file of its image."""
        name = self.annotations.file_names[self.annotations.image_of(instance)]
        return image_path(self.image_dir, str(name))

    def patch(self, instance: int, window: Window) -> NDArray[np.uint8]:
        """Read a window [h, w, 3] of its image."""
        x1, y1, x2, y2 = window
        size = self.annotations.size(self.annotations.image_of(instance))
        return read_image(self.path(instance), size)[y1:y2, x1:x2]

    def fingerprint(self, instance: int) -> tuple[str, bytes]:
        """Return what its pixels depend on: the path and digest of its image."""
        return str(self.path(instance).absolute()), image_digest(self.path(instance))


@dataclass(frozen=True)
class Paste:
    """A person pasted at one place of another image."""

    instance: int  # which one, by index in the training set
    window: Window  # x1, y1, x2, y2 of the cutout in whole pixels of its own image
    # x1, y1, x2, y2 it is stretched over, in whole pixels of the other image; may extend beyond it
    place: Window
    mirrored: bool
    behind: bool  # placed behind everyone in the image instead of in front
    tone: float  # how far (0..1) its colours are shifted towards those around it

    @property
    def size(self) -> tuple[int, int]:
        """Return (h, w) of the place in pixels."""
        x1, y1, x2, y2 = self.place
        return y2 - y1, x2 - x1


@dataclass(frozen=True)
class CopyPaste:
    """Samples people of other training images, to be pasted beside the people of an image."""

    probability: Share = 0.5  # probability that anyone is pasted into an image
    people: PositiveInt = 3  # maximum number per image; 1 to this number are equally probable
    # share placed beside a person so that their boxes overlap; the others stand anywhere on its ground
    near: Share = 0.8
    behind: Share = 0.3  # share placed behind everyone else instead of in front
    scale: Range = (0.7, 1.4)  # (low, high) height relative to that person's, log-uniform
    max_zoom: PositiveFloat = 2.0  # maximum enlargement of a cutout
    flip: Share = 0.5
    # maximum shift (0..1) of a cutout's mean colour and contrast towards the pixels around it; uniform
    tone: Share = 0.4
    min_size: NonNegativeFloat = 40  # smallest side of a cutout's box in original pixels
    min_visible: Share = 0.25  # a person with a smaller visible share is not a ROI

    def sample(
        self, boxes: Boxes, size: tuple[int, int], image: int, cutouts: CutoutPool, rng: np.random.Generator
    ) -> list[Paste]:
        """Sample the pastes of an image, in order.

        Args:
            boxes: [n, 4] of the people to stand beside, in original pixels.
            size: (H, W) of the image in original pixels.
            cutouts: the people to choose from; those of this image are not used.
        """
        if rng.random() >= self.probability or not len(boxes):
            return []
        pastes = [
            self._sample(boxes, size, image, cutouts, rng) for _ in range(rng.integers(self.people) + 1)
        ]
        return [paste for paste in pastes if paste is not None]

    def _sample(
        self, boxes: Boxes, size: tuple[int, int], image: int, cutouts: CutoutPool, rng: np.random.Generator
    ) -> Paste | None:
        x1, y1, x2, y2 = boxes[rng.integers(len(boxes))].tolist()
        wanted = (y2 - y1) * math.exp(rng.uniform(*np.log(self.scale)))
        cutout = cutouts.sample(image, wanted / self.max_zoom, rng)
        if cutout is None:
            return None
        window = cutouts.window(cutout)
        zoom = min(wanted / (window[3] - window[1]), self.max_zoom)
        width = max(1, round(zoom * (window[2] - window[0])))
        height = max(1, round(zoom * (window[3] - window[1])))
        if rng.random() < self.near:
            apart = rng.choice([-1, 1]) * rng.uniform(*_APART) * (x2 - x1 + width) / 2
            centre = min(max((x1 + x2) / 2 + apart, 0), size[1])
        else:
            centre = rng.uniform(0, size[1])
        left = round(centre - width / 2)
        top = round(y2 + _UNEVEN * height * rng.uniform(-1, 1)) - height
        return Paste(
            cutout,
            window,
            (left, top, left + width, top + height),
            mirrored=bool(rng.random() < self.flip),
            behind=bool(rng.random() < self.behind),
            tone=self.tone * float(rng.random()),
        )


# Between the centres of two neighbours, of the distance at which their boxes no longer overlap.
_APART = (0.1, 0.85)
_UNEVEN = 0.1  # feet are up to this share of the height above or below the neighbour's


def blend(
    under: NDArray[np.uint8], patch: NDArray[np.uint8], mask: NDArray[np.bool_], tone: float
) -> NDArray[np.uint8]:
    """Blend a person into a part of an image; pixels outside the mask are unchanged.

    The edge, two pixels wide, is softened: a hard edge would give a pasted person away.

    Args:
        under: [h, w, 3] the part of the image.
        patch: [h, w, 3] the cutout's image, resampled to the same pixels.
        mask: [h, w] visible pixels of the person.
        tone: how far (0..1) its colours are shifted towards the rest of `under`.
    """
    gain, offset = _tone(under, patch, mask, tone)
    person, below = patch[mask].astype(np.float32), under[mask].astype(np.float32)
    alpha = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)[mask, None]
    result = under.copy()
    result[mask] = (below + alpha * ((gain * person + offset).clip(0, 255) - below) + 0.5).astype(np.uint8)
    return result


def _tone(
    under: NDArray[np.uint8], patch: NDArray[np.uint8], mask: NDArray[np.bool_], tone: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return gain and offset [3] per channel that match a person's colours to its surroundings."""
    gain, offset = np.ones(3, np.float32), np.zeros(3, np.float32)
    if not tone or mask.all() or not mask.any():
        return gain, offset
    inside = mask.astype(np.uint8)
    mean, spread = (stat.ravel() for stat in cv2.meanStdDev(patch, mask=inside))
    other_mean, other_spread = (stat.ravel() for stat in cv2.meanStdDev(under, mask=1 - inside))
    gain += tone * (np.clip((other_spread + 1) / (spread + 1), *_CONTRAST) - 1)
    offset += mean + tone * (other_mean - mean) - gain * mean
    return gain, offset


_CONTRAST = (0.5, 2.0)
