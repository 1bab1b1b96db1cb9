"""Cross-validation: choose the held-out images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from roiseg.common.errors import UserError
from roiseg.data.annotations import Annotations


def join_annotations(sets: Sequence[tuple[Annotations, str | Path]]) -> tuple[Annotations, Path]:
    """Join several sets; return the joined set and the folder its file names are relative to.

    Args:
        sets: annotations and the folder of their images.

    Raises:
        UserError: an image id occurs in two of them.
    """
    folders = [Path(os.path.abspath(folder)) for _, folder in sets]
    common = Path(os.path.commonpath(folders))
    parts = [annotations for annotations, _ in sets]
    path_of: dict[int, Path] = {}
    for part in parts:
        for image_id in part.image_ids.tolist():
            if image_id in path_of:
                raise UserError(
                    f"image id {image_id} is in {path_of[image_id]} and in {part.path}: sets that are joined "
                    "for cross-validation must share no image"
                )
        path_of |= dict.fromkeys(part.image_ids.tolist(), part.path)
    names = [
        (folder.relative_to(common) / name).as_posix()
        for part, folder in zip(parts, folders, strict=True)
        for name in part.file_names.tolist()
    ]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("image_ids", "sizes", "pixel_sizes", "ids", "boxes", "crowd", "points", "runs")
    }
    return Annotations(
        path=parts[0].path,
        file_names=np.array(names),
        first=_concatenate_bounds([part.first for part in parts]),
        parts=_concatenate_bounds([part.parts for part in parts]),
        part_ends=_concatenate_bounds([np.append(0, part.part_ends) for part in parts])[1:],
        run_ends=_concatenate_bounds([part.run_ends for part in parts]),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        **joined,
    ), common


def select_images(annotations: Annotations, images: NDArray[np.int64]) -> Annotations:
    """Return the part of a set in the given images (by index), in the given order."""
    starts = np.append(0, annotations.part_ends)
    instances, first = _gather(annotations.first, images)
    polygons, parts = _gather(annotations.parts, instances)
    points, ends = _gather(starts, polygons)
    characters, run_ends = _gather(annotations.run_ends, instances)
    rows = {"image_ids": images, "file_names": images, "sizes": images, "pixel_sizes": images}
    rows |= {"ids": instances, "boxes": instances, "crowd": instances, "points": points, "runs": characters}
    picked: dict[str, Any] = {name: getattr(annotations, name)[index] for name, index in rows.items()}
    own: dict[str, Any] = {"path": annotations.path, "warnings": annotations.warnings}
    ranges: dict[str, Any] = {"first": first, "parts": parts, "part_ends": ends[1:], "run_ends": run_ends}
    assert {field.name for field in fields(Annotations)} == {*picked, *own, *ranges}
    return Annotations(**own, **picked, **ranges)


def limited(annotations: Annotations, number: int, min_roi_size: float) -> Annotations:
    """Return the part of a set in at most `number` images with ROIs, chosen by id alone.

    A smaller part is contained in every larger one. The choice does not depend on the fold of an image.
    """
    usable = np.flatnonzero(annotations.eligible_counts(min_roi_size))
    ids = annotations.image_ids[usable].tolist()
    hashes = np.array([xxhash.xxh3_64_intdigest(f"limit {i}".encode()) for i in ids], np.uint64)
    return select_images(annotations, np.sort(usable[np.argsort(hashes, kind="stable")[:number]]))


def _gather(
    bounds: NDArray[np.int64], items: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices in the ranges `bounds[i] : bounds[i + 1]` of some items, and the new bounds."""
    lengths = bounds[items + 1] - bounds[items]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(ends[-1]) + np.repeat(bounds[items] - ends[:-1], lengths), ends


def _concatenate_bounds(bounds: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Concatenate bounds [n + 1] that each start at 0."""
    lengths = np.concatenate([np.diff(part) for part in bounds])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class Folds:
    """Splits images into parts by image id alone, independent of the file, its order, or a seed.

    The part of an image is the XXH3 hash of its decimal id modulo the number of parts. Parts are only
    approximately equal in size; an image keeps its part when other images are added or removed.
    """

    number: Annotated[int, Field(ge=2)] = 5  # number of parts, 2 or more
    held_out: NonNegativeInt = 0  # the part (0-based) used for validation; the others are used for training

    def __post_init__(self) -> None:
        if self.held_out >= self.number:
            raise UserError(
                f"data.folds.held_out must be 0 to {self.number - 1} (data.folds.number is {self.number}), "
                f"got {self.held_out}"
            )

    @property
    def name(self) -> str:
        """Return the name of this split for file names."""
        return f"fold_{self.held_out}_of_{self.number}"

    def parts(self, image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part [I] of each image."""
        hashes = [xxhash.xxh3_64_intdigest(str(image_id).encode()) for image_id in image_ids.tolist()]
        return np.array([value % self.number for value in hashes], np.int64)

    def split(self, annotations: Annotations) -> dict[str, Annotations]:
        """Return the training images ("train") and the held-out ones ("val").

        Raises:
            UserError: one of them is empty.
        """
        held_out = self.parts(annotations.image_ids) == self.held_out
        for kind, count in (("held out", held_out.sum()), ("left to train on", (~held_out).sum())):
            if not count:
                raise UserError(
                    f"data.folds: with {len(annotations)} images in {self.number} parts, none is {kind}: "
                    "set a smaller data.folds.number or another data.folds.held_out"
                )
        return {
            "train": select_images(annotations, np.flatnonzero(~held_out)),
            "val": select_images(annotations, np.flatnonzero(held_out)),
        }
