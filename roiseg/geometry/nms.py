"""Greedy non-maximum suppression: of boxes that overlap, the one with the higher score stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roiseg.geometry.boxes import Boxes, iou


def nms(
    boxes: Boxes, scores: NDArray[np.float32], iou_threshold: float | None, most: int
) -> NDArray[np.int64]:
    """Choose boxes by falling score; each chosen one removes those that overlap it more than the threshold.

    Args:
        boxes: [N, 4] x1, y1, x2, y2.
        scores: [N]; among equals the first comes first.
        iou_threshold: a box with a larger IoU with a chosen one is removed; None removes none.
        most: how many are chosen at most.

    Returns:
        Indices of the chosen boxes, by falling score.
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
