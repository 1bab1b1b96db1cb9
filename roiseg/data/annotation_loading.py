"""Load annotations through a reader or from their index, and warn about probable mistakes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from roiseg.common.errors import UserError
from roiseg.common.files import require_file
from roiseg.data.annotation_index import Index
from roiseg.data.annotations import Annotations
from roiseg.data.coco_reader import CocoReader

log = logging.getLogger(__name__)

_NEAR = 2.0  # pixels by which a box and the bounds of its outline may differ in any case
_LEAST_IOU = 0.5  # of a box with the bounds of its outline
_LEAST_INSIDE = 0.8  # share of the bounds that must lie in the box

Pixels = NDArray[np.float64]  # [n, 4] x1, y1, x2, y2

# what was mixed up -> the box that the file would then hold, from an outline's bounds and the image size
_MISTAKES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "`segmentation` seems to contain fractions 0..1 of the image, it must contain pixels": lambda b, size: (
        b * size
    ),
    "`bbox` seems to contain fractions 0..1 of the image, it must contain pixels": lambda b, size: b / size,
    "`bbox` seems to contain x1, y1, x2, y2, it must contain x, y, width, height": lambda b, size: np.hstack(
        [b[:, :2], b[:, :2] + b[:, 2:]]
    ),
    "`bbox` seems to begin with the centre, it must begin with the top left corner": lambda b, size: (
        np.hstack([b[:, :2] + b[:, 2:], 3 * b[:, 2:] - b[:, :2]]) / 2
    ),
    "x and y seem to be exchanged in `segmentation` or `bbox`": lambda b, size: b[:, [1, 0, 3, 2]],
}


@runtime_checkable
class AnnotationReader(Protocol):
    """Reads one annotation format (`data.reader`); its `repr` names the format and its options."""

    def __call__(self, path: Path, category_id: int) -> Annotations:
        """Read the instances of one category.

        Raises:
            UserError: the file is broken, a record is wrong (names file, record and field), or the category
                has no instance.
        """


def load_annotations(
    path: str | Path,
    category_id: int = 1,
    index_dir: str | Path | None = None,
    crowd: Literal["region", "instance"] = "region",
    reader: AnnotationReader | None = None,
) -> Annotations:
    """Read and check an annotation file, or open the index that an earlier reading left.

    Probable mistakes are counted in the `warnings` of the result, which are logged.

    Args:
        index_dir: folder of indices; None parses the file and writes no index.
        crowd: how instances marked `iscrowd` are read: "region" of uncertain content, or "instance".
        reader: its format; None is COCO json.

    Raises:
        UserError: the file is missing, broken, or a record is wrong.
    """
    return open_annotations(path, category_id, index_dir, crowd, reader).keep()


@dataclass(frozen=True)
class OpenedAnnotations:
    """Annotations that are read and checked, and the index that they are not in yet."""

    content: Annotations
    index: Index | None  # to write; None if there is nothing to write

    def keep(self) -> Annotations:
        """Write the index and return the annotations, mapped from it if possible; logs their warnings."""
        for warning in self.content.warnings:
            log.warning("%s: %s", self.content.path, warning)
        return self.content if self.index is None else self.index.write(self.content)


def open_annotations(
    path: str | Path,
    category_id: int = 1,
    index_dir: str | Path | None = None,
    crowd: Literal["region", "instance"] = "region",
    reader: AnnotationReader | None = None,
) -> OpenedAnnotations:
    """Do what `load_annotations` does without writing anything."""
    path, reader = require_file(path, "annotations"), reader or CocoReader()
    index = None if index_dir is None else Index.of(path, category_id, crowd, repr(reader), index_dir)
    if index is not None and (found := index.open()) is not None:
        return OpenedAnnotations(found, None)
    return OpenedAnnotations(_read(path, category_id, crowd, reader), index)


def _read(path: Path, category_id: int, crowd: str, reader: AnnotationReader) -> Annotations:
    annotations = reader(path, category_id)
    if crowd == "instance":
        annotations = replace(annotations, crowd=np.zeros_like(annotations.crowd))
    if annotations.crowd.all():
        raise UserError(
            f"annotations file {path}: all {len(annotations.ids):,} instances of category_id {category_id} "
            "are marked iscrowd, so none is a ROI: data.crowd=instance reads them as instances"
        )
    return replace(annotations, warnings=(*annotations.warnings, *_doubts(annotations)))


def _doubts(annotations: Annotations) -> Iterator[str]:
    """Yield a line for each kind of valid record that is probably a mistake, with its count."""
    number, crowds = len(annotations.ids), int(annotations.crowd.sum())
    if crowds:
        yield (
            f"{crowds:,} of {number:,} instances are marked `iscrowd` and read as regions of uncertain "
            "content; some tools mark every RLE so: data.crowd=instance reads them as instances"
        )
    sizes = np.repeat(annotations.sizes[:, [1, 0, 1, 0]], np.diff(annotations.first), 0).astype(np.float64)
    boxes, bounds = annotations.boxes * sizes, annotations.extents() * sizes
    wrong = np.flatnonzero(~_agree(boxes, np.clip(bounds, 0, sizes)))
    if len(wrong):
        yield _disagreement(annotations, boxes, bounds, sizes, wrong)


def _agree(boxes: Pixels, bounds: Pixels) -> NDArray[np.bool_]:
    """Tell for each box whether it fits an outline with these bounds: bool [n]."""
    sides = np.minimum(boxes[:, 2:], bounds[:, 2:]) - np.maximum(boxes[:, :2], bounds[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    own, outline = ((b[:, 2:] - b[:, :2]).clip(min=0).prod(axis=1) for b in (boxes, bounds))
    alike = (common >= _LEAST_IOU * (own + outline - common)) & (common >= _LEAST_INSIDE * outline)
    return alike | _near(boxes, bounds)


def _near(boxes: Pixels, bounds: Pixels) -> NDArray[np.bool_]:
    return np.asarray((np.abs(boxes - bounds) <= _NEAR).all(axis=1))


def _disagreement(
    annotations: Annotations, boxes: Pixels, bounds: Pixels, sizes: Pixels, wrong: NDArray[np.int64]
) -> str:
    first = int(wrong[0])
    box, outline = (", ".join(f"{v:.5g}" for v in b[first]) for b in (boxes, bounds))
    fits = {
        text: int(_near(boxes[wrong], np.clip(box_of(bounds[wrong], sizes[wrong]), 0, sizes[wrong])).sum())
        for text, box_of in _MISTAKES.items()
    }
    likely = max(fits, key=fits.__getitem__)
    reason = likely if 2 * fits[likely] > len(wrong) else "check `segmentation` and `bbox`"
    return (
        f"{len(wrong):,} of {len(boxes):,} outlines do not fit their boxes, such as annotation "
        f"{annotations.ids[first]} of {annotations.file_names[annotations.image_of(first)]} (box "
        f"{box}, outline within {outline}): {reason}"
    )
