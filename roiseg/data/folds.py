"""Cross-validation: which images are held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.data.annotation_sets import select
from roiseg.data.annotations import Annotations


@dataclass(frozen=True)
class Folds:
    """Splits images into parts that hang on each image's id alone: not on the file, its order, or a seed.

    The part of an image is the XXH3 hash of its id, written in decimal, modulo the number of parts. Parts
    are only about equally large; an image keeps its part when others join or leave the set.

    Args:
        number: of parts; 2 or more.
        held_out: the part (0-based) that is validated on; the others are trained on.
    """

    number: int = 5
    held_out: int = 0

    def __post_init__(self) -> None:
        if self.number < 2:
            raise UserError(f"data.folds.number must be 2 or more, got {self.number}")
        if not 0 <= self.held_out < self.number:
            raise UserError(
                f"data.folds.held_out must be 0 to {self.number - 1} (data.folds.number is {self.number}), "
                f"got {self.held_out}"
            )

    @property
    def name(self) -> str:
        """Names this split in files that are made of it."""
        return f"fold_{self.held_out}_of_{self.number}"

    def parts(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part [I] of each image."""
        hashes = [xxhash.xxh3_64_intdigest(str(image_id).encode()) for image_id in image_ids.tolist()]
        return np.array([value % self.number for value in hashes], np.int64)

    def split(self, annotations: Annotations) -> dict[str, Annotations]:
        """The images to train on ("train") and those held out ("val").

        Raises:
            UserError: there are none of one kind.
        """
        held_out = self.parts(annotations.image_ids) == self.held_out
        for kind, count in (("held out", held_out.sum()), ("left to train on", (~held_out).sum())):
            if not count:
                raise UserError(
                    f"data.folds: with {len(annotations)} images in {self.number} parts, none is {kind}: "
                    "set a smaller data.folds.number or another data.folds.held_out"
                )
        return {
            "train": select(annotations, np.flatnonzero(~held_out)),
            "val": select(annotations, np.flatnonzero(held_out)),
        }
