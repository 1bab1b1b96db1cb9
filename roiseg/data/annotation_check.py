"""What looks wrong in annotations that can be read, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from roiseg.data.annotations import Annotations

_NEAR = 2.0  # pixels by which a box and the bounds of its outline may differ in any case
_LEAST_IOU = 0.5  # of a box with the bounds of its outline
_LEAST_INSIDE = 0.8  # share of the bounds that must lie in the box

Pixels = NDArray[np.float64]  # [n, 4] x1, y1, x2, y2

# what was mixed up, and the box that a file would then hold for an outline with these bounds and image size
_MISTAKES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "`segmentation` seems to hold shares 0..1 of the image, it must hold pixels": lambda b, size: b * size,
    "`bbox` seems to hold shares 0..1 of the image, it must hold pixels": lambda b, size: b / size,
    "`bbox` seems to hold x1, y1, x2, y2, it must hold x, y, width, height": lambda b, size: np.hstack(
        [b[:, :2], b[:, :2] + b[:, 2:]]
    ),
    "`bbox` seems to begin with the centre, it must begin with the left upper corner": lambda b, size: (
        np.hstack([b[:, :2] + b[:, 2:], 3 * b[:, 2:] - b[:, :2]]) / 2
    ),
    "x and y seem to be exchanged in `segmentation` or `bbox`": lambda b, size: b[:, [1, 0, 3, 2]],
}


def doubts(annotations: Annotations, without_area: int) -> Iterator[str]:
    """Yield a line for each kind of record that is read and yet is hardly meant so, with its count.

    Args:
        annotations: the instances that are read.
        without_area: how many of the file's were left out.
    """
    if without_area:
        yield f"{without_area:,} instances without area left out: look at their `segmentation` and `bbox`"
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
    """[n] Can the boxes be those of outlines with these bounds?"""
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
    reason = likely if 2 * fits[likely] > len(wrong) else "look at `segmentation` and `bbox`"
    return (
        f"{len(wrong):,} of {len(boxes):,} outlines do not fit their boxes, annotation "
        f"{annotations.ids[first]} of {annotations.file_names[annotations.image_of(first)]} for one (box "
        f"{box}, outline within {outline}): {reason}"
    )
