"""What is to be visible in an image: its people, and those pasted into it.

All bookkeeping is in whole original pixels of the image: who stands in front takes pixels from who
stands behind, and boxes follow. Nothing is rendered until the image itself is needed.
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
    """A pasted person, as it is painted: the pixels of the image it takes when its turn comes."""

    paste: Paste
    window: Window  # within the image
    mask: NDArray[np.bool_]  # [y2 - y1, x2 - x1]


@dataclass(frozen=True)
class ComposedImage:
    """The n people of an image, crowds included, as far as they are to be visible.

    Attributes:
        boxes: [n, 4] in original pixels.
        outlines: of the n.
        crowd: [n], which are uncertain regions.
        eligible: positions of those who can be a ROI.
        ids: [n] their annotations' ids.
        pasted: what was pasted, in the order of painting.
    """

    boxes: Boxes
    outlines: Outlines
    crowd: NDArray[np.bool_]
    eligible: NDArray[np.int64]
    ids: NDArray[np.int64]
    pasted: tuple[PastedPerson, ...] = ()


class SceneComposer:
    """The scenes of a data set's images.

    Args:
        annotations: the instances.
        image_dir: folder their file names are relative to.
        min_size: smallest side of a ROI in original pixels.
        paste: pastes people of the set into its images; None: images are as they are.

    Raises:
        UserError: nobody in the set is large enough to be pasted.
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
                "could be pasted: lower data.augment.paste.min_size or set data/augment/paste=none"
            )

    def sample(self, image: int, rng: np.random.Generator) -> ComposedImage:
        """The scene of an image, by index; with randomly drawn people in it, if any are to be pasted."""
        scene = self.plain(image)
        if self.paste is None:
            return scene
        beside = scene.boxes[scene.eligible]
        own = rng.spawn(1)[0]  # the view is the same whoever is pasted, or nobody
        pastes = self.paste.sample(beside, self.annotations.size(image), image, self.cutouts, own)
        if not pastes:
            return scene
        crowded = self.compose(scene, pastes)
        return crowded if len(crowded.eligible) else scene

    def plain(self, image: int) -> ComposedImage:
        """The scene of an image as it is."""
        instances = self.annotations.instances(image)
        return ComposedImage(
            self.annotations.pixel_boxes(image),
            self.annotations.outlines(image),
            self.annotations.crowd[instances],
            self.annotations.eligible(image, self.min_size),
            self.annotations.ids[instances],
        )

    def compose(self, scene: ComposedImage, pastes: Sequence[Paste]) -> ComposedImage:
        """Paste people into a scene, one after another."""
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
        """The scene of those of whom something is left to see."""
        assert self.paste is not None
        positions = [i for i, person in enumerate(people) if person.left or not person.changed]
        visible = [people[i] for i in positions]
        boxes = np.array([person.visible_box() for person in visible], np.float32).reshape(-1, 4)
        crowd = np.array([person.crowd for person in visible], bool)
        enough = np.array([person.left >= self.paste.min_visible * person.area for person in visible], bool)
        size = scene.outlines.size
        return ComposedImage(
            boxes,
            scene.outlines.revised(positions, [person.counts(size) for person in visible]),
            crowd,
            np.flatnonzero(large(boxes, self.min_size) & enough & ~crowd),
            np.array([person.identity for person in visible], np.int64),
            pasted,
        )

    def slot(self, scene: ComposedImage) -> tuple[str, ...]:
        """Names the way a scene came about: nothing if nobody is pasted in."""
        return (repr(self.paste), self.cutouts.name) if scene.pasted else ()

    def content(self, scene: ComposedImage) -> tuple[object, ...]:
        """All that the pasted pixels of a scene depend on, beside the image itself."""
        return tuple(
            (
                self.cutouts.state(paste.instance),
                paste.window,
                paste.place,
                paste.mirrored,
                paste.tone,
                _digest(mask),
            )
            for paste, _, mask in scene.pasted
        )

    def render(self, image: NDArray[np.uint8], scene: ComposedImage) -> NDArray[np.uint8]:
        """Paint what a scene has pasted over its image [H, W, 3]."""
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
    """Someone in a scene while it is composed.

    Args:
        identity: id of the annotation.
        window: whole pixels of the image the mask lies in.
        mask: [y2 - y1, x2 - x1] what is to be visible.
        area: pixels of all of it, before anybody else was pasted; of pasted people also what lies beyond
            the image, or behind others.
        box: as annotated; None: was pasted.
        crowd: is an uncertain region.
    """

    identity: int
    window: Window
    mask: NDArray[np.bool_]
    area: int
    box: NDArray[np.float32] | None = None
    crowd: bool = False

    @staticmethod
    def annotated(scene: ComposedImage, position: int) -> _Person:
        outline = scene.outlines.rle(position)
        window = rle.bounds(outline)
        mask = rle.decode_window(outline, window).copy()
        identity, crowd = int(scene.ids[position]), bool(scene.crowd[position])
        return _Person(identity, window, mask, int(mask.sum()), scene.boxes[position], crowd)

    @property
    def left(self) -> int:
        """Pixels that are to be visible."""
        return int(self.mask.sum())

    @property
    def changed(self) -> bool:
        """Is it to be visible as it was not annotated?"""
        return self.box is None or self.left < self.area

    def counts(self, size: tuple[int, int]) -> bytes | None:
        """Compressed run-length encoding of what is to be visible; None: the outline is as annotated."""
        return rle.encode_window(self.mask, self.window, size)["counts"] if self.changed else None

    def visible_box(self) -> NDArray[np.float32]:
        """The bounds of what is to be visible; where those have not moved, the annotated box's side."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            assert self.box is not None
            return self.box
        x, y = columns + self.window[0], rows + self.window[1]
        bounds = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1])
        if self.box is None:
            return bounds.astype(np.float32)
        return np.where(bounds == self.window, self.box, bounds).astype(np.float32)


def _digest(mask: NDArray[np.bool_]) -> str:
    return xxhash.xxh3_128_hexdigest(np.packbits(mask).tobytes())


def _common(a: Window, b: Window) -> Window:
    """Where two windows overlap; may be empty."""
    x1, y1, x2, y2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return x1, y1, max(x1, x2), max(y1, y2)


def _part(array: NDArray[Any], window: Window, wanted: Window) -> NDArray[Any]:
    """What an array [y2 - y1, x2 - x1, ...] that shows a window shows in a smaller one; a view."""
    x1, y1, x2, y2 = wanted
    left, top = window[:2]
    return array[y1 - top : y2 - top, x1 - left : x2 - left]
