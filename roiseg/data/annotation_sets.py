"""Annotations of several files as one set, and parts of a set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.data.annotations import Annotations


def join(sets: Sequence[tuple[Annotations, str | Path]]) -> tuple[Annotations, Path]:
    """All images of several sets as one, and the folder its file names are relative to.

    Args:
        sets: annotations and the folder of their images.

    Raises:
        UserError: an image id is in two of them.
    """
    folders = [Path(os.path.abspath(folder)) for _, folder in sets]
    common = Path(os.path.commonpath(folders))
    parts = [annotations for annotations, _ in sets]
    seen: dict[int, Path] = {}
    for part in parts:
        for image_id in part.image_ids.tolist():
            if image_id in seen:
                raise UserError(
                    f"image id {image_id} is in {seen[image_id]} and in {part.path}: sets that are joined "
                    "for cross-validation must share no image"
                )
        seen |= dict.fromkeys(part.image_ids.tolist(), part.path)
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
        first=_end_to_end([part.first for part in parts]),
        parts=_end_to_end([part.parts for part in parts]),
        part_ends=_end_to_end([np.append(0, part.part_ends) for part in parts])[1:],
        run_ends=_end_to_end([part.run_ends for part in parts]),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        **joined,
    ), common


def select(annotations: Annotations, images: NDArray[np.int64]) -> Annotations:
    """The part of a set that lies in some images, by index, in the order given."""
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


def _gather(
    bounds: NDArray[np.int64], items: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What lies in ranges `bounds[i] : bounds[i + 1]` of some items, and the bounds of the result."""
    lengths = bounds[items + 1] - bounds[items]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(ends[-1]) + np.repeat(bounds[items] - ends[:-1], lengths), ends


def _end_to_end(bounds: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Bounds [n + 1] that each begin at 0, of ranges that now lie end to end."""
    lengths = np.concatenate([np.diff(part) for part in bounds])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
