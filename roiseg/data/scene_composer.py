"""Compose scenes: the people of an image and those pasted into it.

Masks are in whole original pixels. A person in front takes pixels from those behind, and boxes follow.
Nothing is rendered until the image itself is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.data.annotations import Annotations, large
from roiseg.data.copy_paste import CopyPaste, CutoutPool, Paste, blend
from roiseg.geometry import rle
from roiseg.geometry.boxes import Boxes
from roiseg.geometry.outlines import Outlines
from roiseg.geometry.paste import Window


class PastedPerson(NamedTuple):
    """A pasted person with the pixels it covers when it is painted."""

    paste: Paste
    window: Window  # within the image
    mask: NDArray[np.bool_]  # [y2 - y1, x2 - x1]


@dataclass(frozen=True)
class ComposedImage:
    """The visible outlines of the n people of an image, crowds included."""

    boxes: Boxes  # [n, 4] in original pixels
    outlines: Outlines  # visible outlines of the n
    crowd: NDArray[np.bool_]  # [n] marks uncertain regions
    eligible: NDArray[np.int64]  # positions of those that can be a ROI
    ids: NDArray[np.int64]  # [n] annotation ids
    pasted: tuple[PastedPerson, ...] = ()  # the pasted people, in the order of painting


class SceneComposer:
    """Composes the scenes of a data set.

    Args:
        paste: samples people to paste; None leaves the images as they are.

    Raises:
        UserError: no instance of the set is large enough to be pasted.
    """

    def __init__(
        self, annotations: Annotations, image_dir: Path, min_size: float, paste: CopyPaste | None = None
    ) -> None:
        self.annotations = annotations
        self.min_size = min_size
        self.paste = paste
        if paste is None:
            return
        self.cutouts = CutoutPool(annotations, image_dir, max(paste.min_size, min_size))
        if not len(self.cutouts):
            raise UserError(
                f"no instance in {annotations.path} has both sides of {paste.min_size} pixels or more and "
                "could be pasted: lower data.augment.paste.min_size or set data/augment/paste=null"
            )

    def sample(self, image: int, rng: np.random.Generator) -> ComposedImage:
        """Sample the scene of an image (by index), with people pasted in, if any."""
        scene = self.plain(image)
        if self.paste is None:
            return scene
        beside = scene.boxes[scene.eligible]
        own = rng.spawn(1)[0]  # pasting does not change the sampled view
        pastes = self.paste.sample(beside, self.annotations.size(image), image, self.cutouts, own)
        if not pastes:
            return scene
        crowded = self.compose(scene, pastes)
        return crowded if len(crowded.eligible) else scene

    def plain(self, image: int) -> ComposedImage:
        """Return the scene of an image without anyone pasted."""
        instances = self.annotations.instances(image)
        return ComposedImage(
            self.annotations.pixel_boxes(image),
            self.annotations.outlines(image),
            self.annotations.crowd[instances],
            self.annotations.eligible(image, self.min_size),
            self.annotations.ids[instances],
        )

    def compose(self, scene: ComposedImage, pastes: Sequence[Paste]) -> ComposedImage:
        """Paste people into a scene, in order."""
        height, width = scene.outlines.size
        people = [_Person.annotated(scene, position) for position in range(len(scene.boxes))]
        pasted = []
        for paste in pastes:
            whole = self.cutouts.mask(paste.instance, paste.window, paste.size, paste.mirrored)
            window = _common(paste.place, (0, 0, width, height))
            mask = _part(whole, paste.place, window).copy()
            for person in people:
                shared = _common(person.window, window)
                theirs, ours = _part(person.mask, person.window, shared), _part(mask, window, shared)
                if paste.behind:
                    ours &= ~theirs
                else:
                    theirs &= ~ours
            if mask.any():
                identity = int(self.annotations.ids[paste.instance])
                people.append(_Person(identity, window, mask, area=int(whole.sum())))
                pasted.append(PastedPerson(paste, window, mask.copy()))
        return self._visible(scene, people, tuple(pasted))

    def _visible(
        self, scene: ComposedImage, people: Sequence[_Person], pasted: tuple[PastedPerson, ...]
    ) -> ComposedImage:
        """Return the scene of the people that are still visible."""
        assert self.paste is not None
        positions = [i for i, person in enumerate(people) if person.visible_pixels or not person.changed]
        visible = [people[i] for i in positions]
        boxes = np.array([person.visible_box() for person in visible], np.float32).reshape(-1, 4)
        crowd = np.array([person.crowd for person in visible], bool)
        enough = np.array(
            [person.visible_pixels >= self.paste.min_visible * person.area for person in visible], bool
        )
        size = scene.outlines.size
        return ComposedImage(
            boxes,
            scene.outlines.revised(positions, [person.counts(size) for person in visible]),
            crowd,
            np.flatnonzero(large(boxes, self.min_size) & enough & ~crowd),
            np.array([person.identity for person in visible], np.int64),
            pasted,
        )

    def key(self, scene: ComposedImage) -> tuple[str, ...]:
        """Return the part of a cache key that names the way of pasting; empty without pasted people."""
        return (repr(self.paste), self.cutouts.name) if scene.pasted else ()

    def fingerprint(self, scene: ComposedImage) -> tuple[object, ...]:
        """Return everything that the pasted pixels depend on, besides the image itself."""
        return tuple(
            (
                self.cutouts.fingerprint(paste.instance),
                paste.window,
                paste.place,
                paste.mirrored,
                paste.tone,
                xxhash.xxh3_128_hexdigest(np.packbits(mask).tobytes()),
            )
            for paste, _, mask in scene.pasted
        )

    def render(self, image: NDArray[np.uint8], scene: ComposedImage) -> NDArray[np.uint8]:
        """Paint the pasted people of a scene onto its image [H, W, 3]."""
        if scene.pasted:
            image = image.copy()
        for paste, window, mask in scene.pasted:
            patch = self.cutouts.patch(paste.instance, paste.window)
            height, width = paste.size
            way = cv2.INTER_AREA if height < patch.shape[0] else cv2.INTER_LINEAR
            resized: NDArray[Any] = cv2.resize(patch, (width, height), interpolation=way)
            resized = _part(resized[:, ::-1] if paste.mirrored else resized, paste.place, window)
            under = _part(image, (0, 0, image.shape[1], image.shape[0]), window)
            under[:] = blend(under, resized, mask, paste.tone)
        return image


@dataclass
class _Person:
    """A person of a scene while it is composed."""

    identity: int  # id of the annotation
    window: Window  # x1, y1, x2, y2 of the mask in whole pixels of the image
    mask: NDArray[np.bool_]  # [y2 - y1, x2 - x1] visible pixels
    # pixels before anyone else was pasted; for pasted people including what lies outside the image or behind
    # others
    area: int
    box: NDArray[np.float32] | None = None  # the annotated box; None for a pasted person
    crowd: bool = False  # whether it is an uncertain region

    @staticmethod
    def annotated(scene: ComposedImage, position: int) -> _Person:
        outline = scene.outlines.rle(position)
        window = rle.bounds(outline)
        mask = rle.decode_window(outline, window).copy()
        identity, crowd = int(scene.ids[position]), bool(scene.crowd[position])
        return _Person(identity, window, mask, int(mask.sum()), scene.boxes[position], crowd)

    @property
    def visible_pixels(self) -> int:
        """Return the number of visible pixels."""
        return int(self.mask.sum())

    @property
    def changed(self) -> bool:
        """Tell whether its visible outline differs from the annotated one."""
        return self.box is None or self.visible_pixels < self.area

    def counts(self, size: tuple[int, int]) -> bytes | None:
        """Encode the visible pixels as compressed RLE; None if the outline is as annotated."""
        return rle.encode_window(self.mask, self.window, size)["counts"] if self.changed else None

    def visible_box(self) -> NDArray[np.float32]:
        """Return the bounds of the visible pixels; unchanged sides keep those of the annotated box."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            assert self.box is not None
            return self.box
        x, y = columns + self.window[0], rows + self.window[1]
        bounds = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1])
        if self.box is None:
            return bounds.astype(np.float32)
        return np.where(bounds == self.window, self.box, bounds).astype(np.float32)


def _common(a: Window, b: Window) -> Window:
    """Return the intersection of two windows; may be empty."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return x1, y1, max(x1, x2), max(y1, y2)


def _part(array: NDArray[Any], window: Window, wanted: Window) -> NDArray[Any]:
    """Return the view of a smaller window of an array [y2 - y1, x2 - x1, ...] that covers a window."""
    x1, y1, x2, y2 = wanted
    left, top = window[:2]
    return array[y1 - top : y2 - top, x1 - left : x2 - left]
