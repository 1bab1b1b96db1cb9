"""Instances by size and by company: where a model is good, and where not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roiseg.data.analysis import CROWDED
from roiseg.metrics.instance import InstanceRecord

COCO_AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}  # original pixels
_SIDES = (0, 16, 32, 64, 96, 192, math.inf)  # of the ROI, input pixels


class Band(NamedTuple):
    """Some of the instances, and means over them.

    Attributes:
        group: what divides the instances.
        name: which of them these are.
        instances: how many.
        instance_iou, instance_iou75, boundary_iou: see `InstanceMetrics`.
    """

    group: str
    name: str
    instances: int
    instance_iou: float
    instance_iou75: float
    boundary_iou: float


def bands(records: Sequence[InstanceRecord], sides: Sequence[float]) -> list[Band]:
    """Divide instances by area (COCO's classes), by side of the ROI, and by company: crowded are those of
    whose ROI other annotated persons cover more than a tenth.

    Args:
        records: the instances.
        sides: square root of the area of each ROI in the detector's INPUT pixels, in the same order: what
            the features see of it.

    Returns:
        The bands that hold an instance; the lower limit of a size belongs to it.
    """
    iou = np.array([record.iou for record in records])
    boundary = np.array([record.boundary_iou for record in records])
    return [
        Band(group, name, int(inside.sum()), *(
            float(values[inside].mean()) for values in (iou, iou >= 0.75, boundary)
        ))
        for group, name, inside in _divisions(records, sides)
        if inside.any()
    ]  # fmt: skip


def _divisions(
    records: Sequence[InstanceRecord], sides: Sequence[float]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    area, side = np.array([record.area for record in records]), np.array(sides)
    for name, (least, beyond) in COCO_AREAS.items():
        yield "annotated area", name, (least <= area) & (area < beyond)
    for low, high in pairwise(_SIDES):
        name = f"{low}+ px" if math.isinf(high) else f"{low}-{high} px"
        yield "ROI side, input", name, (low <= side) & (side < high)
    crowded = np.array([record.non_target_share > CROWDED for record in records], bool)
    yield "company", "crowded", crowded
    yield "company", "alone", ~crowded
