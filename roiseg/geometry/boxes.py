"""Boxes as arrays: formats, areas, clipping, jitter.

Inside the program a box is always ``x1, y1, x2, y2`` in continuous pixels (x2, y2 exclusive: the pixel with
index i covers [i, i + 1)). Other formats exist only where data enters or leaves it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float32]


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Return `boxes` as float32 [N, 4]; an empty list becomes [0, 4].

    Raises:
        ValueError: the last dimension is not 4.
    """
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0:
        return np.zeros((0, 4), np.float32)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(f"boxes need 4 numbers each, got an array of shape {array.shape}")
    return array.reshape(-1, 4)


def from_cxcywh(boxes: ArrayLike) -> Boxes:
    """Convert centre x, centre y, width, height to x1, y1, x2, y2; [N, 4]."""
    b = as_boxes(boxes)
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1)


def to_cxcywh(boxes: ArrayLike) -> Boxes:
    """Convert x1, y1, x2, y2 to centre x, centre y, width, height; [N, 4]."""
    b = as_boxes(boxes)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)


def normalize(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Convert pixels of an image of `size` (H, W) to 0..1."""
    return as_boxes(boxes) / _limits(size)


def denormalize(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Convert 0..1 to pixels of an image of `size` (H, W)."""
    return as_boxes(boxes) * _limits(size)


def area(boxes: ArrayLike) -> NDArray[np.float32]:
    """Return areas [N]; an inverted box has area 0."""
    b = as_boxes(boxes)
    return np.clip(b[:, 2] - b[:, 0], 0, None) * np.clip(b[:, 3] - b[:, 1], 0, None)


def clip(boxes: ArrayLike, size: tuple[int, int]) -> Boxes:
    """Clip boxes to an image of `size` (H, W) pixels."""
    return np.clip(as_boxes(boxes), 0, _limits(size))


def _limits(size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    return np.array([width, height, width, height], np.float32)


def intersection(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return pairwise intersection areas [N, M] of boxes [N, 4] and [M, 4]."""
    p, q = as_boxes(a)[:, None], as_boxes(b)[None]
    low, high = np.maximum(p[..., :2], q[..., :2]), np.minimum(p[..., 2:], q[..., 2:])
    sides = np.clip(high - low, 0, None)
    return sides[..., 0] * sides[..., 1]


def iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return pairwise intersection over union [N, M]; 0 where both areas are 0."""
    inter = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def crowding(boxes: ArrayLike) -> NDArray[np.float32]:
    """Return the share (0..1) of each box [N] that other boxes cover (summed, clipped at 1).

    A cheap proxy for the share of non-target pixels that needs no masks.
    """
    inter = intersection(boxes, boxes)
    np.fill_diagonal(inter, 0)
    own = area(boxes)
    return np.clip(np.divide(inter.sum(1), own, out=np.zeros_like(own), where=own > 0), 0, 1)


def jitter(boxes: ArrayLike, rng: np.random.Generator, center: float, scale: float) -> Boxes:
    """Move and resize boxes at random, like the errors of a detector.

    Args:
        boxes: [N, 4].
        center: the centre moves by up to this share of width and height, uniform.
        scale: width and height are each multiplied by exp(u), u uniform within +-log(1 + scale).
    """
    b = to_cxcywh(boxes)
    shift = rng.uniform(-center, center, (len(b), 2)).astype(np.float32)
    grow = np.exp(rng.uniform(-1, 1, (len(b), 2)) * np.log1p(scale)).astype(np.float32)
    return from_cxcywh(np.concatenate([b[:, :2] + shift * b[:, 2:], b[:, 2:] * grow], axis=1))


def nms(
    boxes: Boxes, scores: NDArray[np.float32], iou_threshold: float | None, most: int
) -> NDArray[np.int64]:
    """Apply non-maximum suppression: keep boxes by decreasing score, remove those that overlap a kept one.

    Args:
        boxes: [N, 4] x1, y1, x2, y2.
        scores: [N]; ties keep their order.
        iou_threshold: boxes with a larger IoU with a kept one are removed; None removes none.
        most: maximum number of boxes to keep.

    Returns:
        Indices of the kept boxes by decreasing score.
    """
    order = np.argsort(-scores, kind="stable")
    if iou_threshold is None:
        return order[:most]
    chosen: list[int] = []
    while len(order) and len(chosen) < most:
        first, rest = order[0], order[1:]
        chosen.append(int(first))
        order = rest[~(iou(boxes[first], boxes[rest])[0] > iou_threshold)]
    return np.array(chosen, dtype=np.int64)
