"""The people of a training set that may be pasted into its other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from roiseg.common.file_names import image_path
from roiseg.data import rle
from roiseg.data.annotations import Annotations
from roiseg.data.images import image_digest, read_image
from roiseg.geometry.paste import Window, paste_window
from roiseg.geometry.rasterize import Grids, unpack

_CELLS = 32  # along each side of the grid on which a person is judged
_MIN_FILL = 0.25  # of its box; less is an arm or a sliver
_MAX_COVERED = 0.1  # of its mask, by other persons: their pixels are not its own
_TRIES = 8
# a large neighbour is given one of this share of the people, the tallest, where none is tall enough
_TALLEST = 0.25


class Donors:
    """People large enough to be pasted, no crowds, hardly covered by others.

    Args:
        annotations: the training set, and nothing but it: what is held out must not be seen.
        image_dir: folder its file names are relative to.
        min_size: smallest side of a donor's box in original pixels.
    """

    def __init__(self, annotations: Annotations, image_dir: Path, min_size: float) -> None:
        self.annotations = annotations
        self.image_dir = image_dir
        large = annotations.all_eligible(min_size)
        boxes = annotations.all_pixel_boxes()[large]
        heights = boxes[:, 3] - boxes[:, 1]
        images = annotations.image_ids[np.searchsorted(annotations.first, large, "right") - 1]
        ids = annotations.ids[large]
        order = np.lexsort((ids, images, heights))  # whatever the order of the images
        self.instances, self.heights = large[order], heights[order]
        people = np.stack([images, ids], axis=1)[order].astype("<i8")
        self.name = xxhash.xxh3_64_hexdigest(people.tobytes())  # of this set of people

    def __len__(self) -> int:
        return len(self.instances)

    def draw(self, image: int, min_height: float, rng: np.random.Generator) -> int | None:
        """Draw an instance of another image, `min_height` pixels tall or else one of the tallest."""
        least = min(int(np.searchsorted(self.heights, min_height)), int((1 - _TALLEST) * len(self)))
        for _ in range(_TRIES):
            instance = int(self.instances[rng.integers(least, len(self))])
            if self.annotations.image_of(instance) != image and self.suits(instance):
                return instance
        return None

    def suits(self, instance: int) -> bool:
        """Does it fill its box well enough, and do others leave it uncovered?"""
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
        """Whole pixels of its own image that its mask lies in."""
        outline = self.annotations.outline(instance)
        polygons = outline.pixels(0)
        if not polygons:
            return rle.bounds(outline.rle(0))
        points = np.concatenate(polygons)
        return paste_window(np.concatenate([points.min(axis=0), points.max(axis=0)]), outline.size)

    def mask(self, instance: int, window: Window, size: tuple[int, int], mirrored: bool) -> NDArray[np.bool_]:
        """Its mask on a grid of `size` (h, w) cells stretched over a window of its image.

        Drawn straight onto the grid: is a cell's centre inside its outline?
        """
        x1, y1, x2, y2 = window
        scale = np.array([[size[1] / (x2 - x1), size[0] / (y2 - y1)]])
        shift = -scale * (x1, y1)
        if mirrored:
            scale[0, 0], shift[0, 0] = -scale[0, 0], size[1] - shift[0, 0]
        planes = self.annotations.outline(instance).planes(Grids(scale, shift, size))
        return unpack(planes[:, :, 0])[0, :, : size[0]].T.astype(bool)

    def path(self, instance: int) -> Path:
        """The file of its image."""
        name = self.annotations.file_names[self.annotations.image_of(instance)]
        return image_path(self.image_dir, str(name))

    def patch(self, instance: int, window: Window) -> NDArray[np.uint8]:
        """A window of its image, [h, w, 3]."""
        x1, y1, x2, y2 = window
        size = self.annotations.size(self.annotations.image_of(instance))
        return read_image(self.path(instance), size)[y1:y2, x1:x2]

    def state(self, instance: int) -> tuple[str, bytes]:
        """What its pixels depend on: the image's path and content."""
        return str(self.path(instance).absolute()), image_digest(self.path(instance))
