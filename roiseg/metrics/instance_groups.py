"""Instance metrics by annotated area, by ROI size and by crowding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roiseg.data.analysis import CROWDED
from roiseg.metrics.instance import InstanceRecord
from roiseg.metrics.registry import ALL_INSTANCES

COCO_AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}  # original pixels
_SIDES = (0, 16, 32, 64, 96, 192, math.inf)  # ROI side limits, input pixels


class InstanceGroup(NamedTuple):
    """Means over the instances of one group.

    Attributes:
        criterion: what divides the instances: "annotated area", "ROI side, input" or "crowding".
        name: the group within the criterion, such as "small".
        instances: number of instances.
        means: mean of each metric of `ALL_INSTANCES`, by name.
    """

    criterion: str
    name: str
    instances: int
    means: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """Return the group as one flat dict, for JSON."""
        return {
            "criterion": self.criterion, "group": self.name, "instances": self.instances, **self.means
        }  # fmt: skip


def group_instances(records: Sequence[InstanceRecord], sides: Sequence[float]) -> list[InstanceGroup]:
    """Group instances by annotated area (COCO's classes), by ROI side, and by crowding.

    Crowded instances are those with other annotated persons on more than a tenth of their ROI.

    Args:
        records: the instances.
        sides: square root of each ROI's area in the detector's INPUT pixels, in the same order: the size at
            which the features see it.

    Returns:
        The groups that are not empty. The lower limit of a size range belongs to it.
    """
    values = {
        metric.name: np.array([metric.value(record) for record in records], float) for metric in ALL_INSTANCES
    }
    return [
        InstanceGroup(
            criterion,
            name,
            int(members.sum()),
            {key: float(of[members].mean()) for key, of in values.items()},
        )
        for criterion, name, members in _divisions(records, sides)
        if members.any()
    ]


def _divisions(
    records: Sequence[InstanceRecord], sides: Sequence[float]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    area, side = np.array([record.area for record in records]), np.array(sides)
    for name, (smallest, limit) in COCO_AREAS.items():
        yield "annotated area", name, (smallest <= area) & (area < limit)
    for low, high in pairwise(_SIDES):
        name = f"{low}+ px" if math.isinf(high) else f"{low}-{high} px"
        yield "ROI side, input", name, (low <= side) & (side < high)
    crowded = np.array([record.non_target_share > CROWDED for record in records], bool)
    yield "crowding", "crowded", crowded
    yield "crowding", "not crowded", ~crowded
