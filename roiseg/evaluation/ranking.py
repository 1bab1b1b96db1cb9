"""The instances with the lowest or highest IoU, and a sheet of them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roiseg.common.files import image_path
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.geometry.rle import decode_window, encode_window
from roiseg.metrics.instance import InstanceRecord, PastedMask
from roiseg.visualize.canvas import Image
from roiseg.visualize.instance_sheet import SheetCell, crop_window, instance_sheet


@dataclass(frozen=True)
class RankedInstance:
    """One measured instance and its predicted mask, as RLE of the original image."""

    record: InstanceRecord
    image_index: int
    mask: dict[str, Any]


class Ranking:
    """Keeps the instances with the lowest IoU times `sign`.

    Args:
        sign: 1 keeps the worst, -1 the best.
        count: number of instances to keep.

    Attributes:
        kept: these instances in order.
    """

    def __init__(self, sign: int, count: int) -> None:
        self.sign = sign
        self.count = count
        self.kept: list[RankedInstance] = []

    def add(self, pasted: PastedMask, record: InstanceRecord) -> None:
        """Add an instance if it ranks among those kept."""
        if len(self.kept) < self.count or self._rank(record) < self._rank(self.kept[-1].record):
            mask = encode_window(pasted.mask, pasted.window, pasted.sample.original_size)
            self.insert(RankedInstance(record, pasted.sample.image_index, mask))

    def insert(self, instance: RankedInstance) -> None:
        """Insert an instance in order, and drop the last one if there are too many."""
        bisect.insort(self.kept, instance, key=lambda kept: self._rank(kept.record))
        del self.kept[self.count :]

    def _rank(self, record: InstanceRecord) -> tuple[float, int, int]:
        return self.sign * record.iou, record.image_id, record.annotation_id


def ranking_sheet(name: str, kept: Sequence[RankedInstance], dataset: RoiDataset) -> Image:
    """Draw ranked instances, in order.

    Args:
        name: "worst" or "best".
        kept: one or more instances.
        dataset: the data set with their images and annotations.
    """
    cells = [_sheet_cell(dataset, instance) for instance in kept]
    return instance_sheet(f"{name} {len(kept)} of the test by instance IoU", cells)


def _sheet_cell(dataset: RoiDataset, instance: RankedInstance) -> SheetCell:
    """Crop the image around an instance, with the annotations there."""
    record, index, annotations = instance.record, instance.image_index, dataset.annotations
    box = np.array([record.x1, record.y1, record.x2, record.y2])
    x1, y1, x2, y2 = window = crop_window(box, annotations.size(index))
    instances, outlines = annotations.instances(index), annotations.outlines(index)
    masks = np.array([decode_window(outlines.rle(i), window) for i in range(len(outlines))])
    own = annotations.ids[instances] == record.annotation_id
    side = np.sqrt((record.x2 - record.x1) * (record.y2 - record.y1))
    return SheetCell(
        title=f"{record.file_name} #{record.annotation_id}",
        footer=f"IoU {record.iou:.2f}  side {side:.0f} px",
        image=read_image(image_path(dataset.image_dir, record.file_name))[y1:y2, x1:x2],
        box=box - [x1, y1, x1, y1],
        truth=masks[own][0],
        prediction=decode_window(instance.mask, window),
        others=masks[~own & ~annotations.crowd[instances]],
    )
