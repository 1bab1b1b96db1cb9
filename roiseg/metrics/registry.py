"""Every metric of a run, in one place: its name in logs and files, its label, and how it is averaged.

Validation, `evaluate`, the tables, `report`, the epoch history and the docs read these entries; a new
instance metric is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from roiseg.common.classes import CLASS_NAMES
from roiseg.data.analysis import CROWDED


@dataclass(frozen=True)
class InstanceMetric:
    """A mean over instances, each measured at original resolution."""

    name: str  # name in logs and files, after `val/` or `test/`
    label: str
    # value of an `InstanceRecord`, or values of a whole `instances.csv` (`reporting.runs.Rois`)
    value: Callable[[Any], Any]
    among: Callable[[Any], Any] | None = None  # which instances count, called like `value`; None: all
    summary: bool = False  # whether tables of epochs show it


INSTANCE_METRICS = (
    InstanceMetric("instance_iou", "instance IoU", lambda rois: rois.iou, summary=True),
    InstanceMetric("instance_iou75", "IoU ≥ 0.75", lambda rois: rois.iou >= 0.75),
    # Cheng et al., Boundary IoU, CVPR 2021
    InstanceMetric("boundary_iou", "boundary IoU", lambda rois: rois.boundary_iou, summary=True),
    InstanceMetric(
        "crowded_iou",
        "instance IoU, crowded",
        lambda rois: rois.iou,
        among=lambda rois: rois.non_target_share > CROWDED,
    ),
)
ALL_INSTANCES = tuple(metric for metric in INSTANCE_METRICS if metric.among is None)

# pixels pooled over all ROIs, computed by `roiseg.metrics.roi.PixelMetrics`
PIXEL_METRICS = {
    "miou": "mIoU",
    **{f"{name}_iou": f"{name.replace('_', '-')} IoU" for name in CLASS_NAMES},
    "dice": "Dice",
    **{f"{name}_dice": f"{name.replace('_', '-')} Dice" for name in CLASS_NAMES},
    "pixel_accuracy": "pixel accuracy",
    "mean_pixel_accuracy": "mean pixel accuracy",
}

LABELS = PIXEL_METRICS | {metric.name: metric.label for metric in INSTANCE_METRICS}

SHORT = ("miou", "target_iou", "instance_iou")  # one line per epoch, and the summary of a run
SUMMARY = ("miou", "target_iou", "non_target_iou", *(m.name for m in INSTANCE_METRICS if m.summary))


def labels(stage: str, names: tuple[str, ...] = SUMMARY) -> dict[str, str]:
    """Return the logged names of a stage ("train", "val", "test") and their labels."""
    return {f"{stage}/{name}": LABELS[name] for name in names}
