"""The instances with the lowest or highest IoU, and a sheet of them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.common.files import image_path
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.geometry.paste import Window
from roiseg.geometry.rle import decode_window, encode_window
from roiseg.metrics.instance import InstanceRecord, PastedMask
from roiseg.visualize.canvas import (
    COLORS,
    ROI_RED,
    Image,
    Mask,
    blank,
    center,
    fitted_size,
    legend,
    resize_image,
    resize_mask,
    scale_boxes,
    text_strip,
)
from roiseg.visualize.drawing import blend_masks, draw_boxes, draw_outlines

_LEGEND = {name: COLORS[name] for name in ("annotated", "predicted", "non-target")} | {"ROI": ROI_RED}
_STRIP = 20  # height of a line of text, pixels
_GAP = 6  # between cells, pixels


@dataclass(frozen=True)
class SheetCell:
    """One instance; everything in the pixels of a crop of its original image."""

    title: str
    footer: str
    image: Image  # the crop, RGB uint8 [H, W, 3]
    box: NDArray[np.floating]  # the ROI, x1, y1, x2, y2
    # bool [H, W]
    truth: Mask
    prediction: Mask
    others: Mask  # masks of the other annotated persons, bool [N, H, W]


def crop_window(box: ArrayLike, size: tuple[int, int], growth: float = 1.3) -> Window:
    """Return the window around a box with its sides grown, clipped to an image of `size` (H, W)."""
    x1, y1, x2, y2 = (float(edge) for edge in np.asarray(box, np.float64))
    dx, dy = (x2 - x1) * (growth - 1) / 2, (y2 - y1) * (growth - 1) / 2
    left, top = max(0, math.floor(x1 - dx)), max(0, math.floor(y1 - dy))
    return left, top, min(size[1], math.ceil(x2 + dx)), min(size[0], math.ceil(y2 + dy))


def instance_sheet(title: str, cells: Sequence[SheetCell], columns: int = 4, side: int = 300) -> Image:
    """Draw cells in reading order under a title, with a legend below.

    Args:
        side: side in pixels of the square that each image is fitted into, keeping its aspect.

    Returns:
        One RGB uint8 image.
    """
    images = [_draw_cell(cell, side) for cell in cells]
    images += [blank(*images[0].shape[:2])] * (-len(images) % columns)
    width, gap = columns * (side + _GAP) + _GAP, blank(images[0].shape[0], _GAP)
    parts = [text_strip(title, _STRIP + 8, width)]
    for start in range(0, len(images), columns):
        row = [part for image in images[start : start + columns] for part in (image, gap)]
        parts += [np.concatenate([gap, *row], axis=1), blank(_GAP, width)]
    return np.concatenate([*parts, legend(width, [(name, blank(18, 28, c)) for name, c in _LEGEND.items()])])


def _draw_cell(cell: SheetCell, side: int) -> Image:
    """Draw the image between both lines of text, [side + text, side, 3]."""
    size = fitted_size(cell.image.shape[1], cell.image.shape[0], side, side)
    truth, prediction = resize_mask(cell.truth, size), resize_mask(cell.prediction, size)
    others = np.array([resize_mask(mask, size) for mask in cell.others], bool).reshape(-1, *truth.shape)
    image = blend_masks(
        resize_image(cell.image, size), prediction[None], np.array([COLORS["predicted"]], np.uint8), 0.45
    )
    image = draw_boxes(image, scale_boxes(cell.box, cell.image.shape, size), ROI_RED, thickness=1)
    image = draw_outlines(image, others, COLORS["non-target"])
    image = draw_outlines(image, truth[None], COLORS["annotated"], thickness=2)
    title, footer = (text_strip(text, _STRIP, side, centre=True) for text in (cell.title, cell.footer))
    return np.concatenate([title, center(image, side, side), footer])


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

    Attributes:
        kept: these instances in order.
    """

    def __init__(self, sign: int, count: int) -> None:
        self.sign = sign
        self.count = count
        self.kept: list[RankedInstance] = []

    def add(self, pasted: PastedMask, record: InstanceRecord) -> None:
        """Add an instance if it ranks among those kept."""
        full = len(self.kept) >= self.count
        if self.count and (not full or self._rank(record) < self._rank(self.kept[-1].record)):
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
