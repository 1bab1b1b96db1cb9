"""Two-row overlays of validation images after every epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from roiseg.callbacks.tensorboard import writers
from roiseg.common.files import image_path
from roiseg.config.run_summary import RunSummary, SummaryCallback
from roiseg.data.batch import RoiSample, collate
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.geometry.rle import decode
from roiseg.metrics.instance import paste_masks
from roiseg.training.module import RoiSegModule
from roiseg.visualize.canvas import write_image
from roiseg.visualize.overlays import OverlayColumn, two_row_overlay

log = logging.getLogger(__name__)

_MIN_ROW_HEIGHT = 32  # pixels


class ValidationOverlays(L.Callback, SummaryCallback):
    """Writes `validation_all_images_epoch_{epoch:04d}.png` after every validation.

    Top row: annotated masks with the ROI boxes in red and instance numbers. Bottom row: predicted masks.
    TensorBoard gets the same image, but increasingly rarely in a long run: each takes
    about a megabyte of the event file.

    Args:
        images: file name -> number of persons; an image with as many persons replaces a missing file.
        row_height: height of a row in pixels.
        in_tensorboard: number n of validations after which TensorBoard gets every second overlay, after 2 n
            every fourth, and so on; 0: no overlays.
    """

    def __init__(
        self,
        output_dir: str | Path,
        images: Mapping[str, PositiveInt],
        row_height: Annotated[int, Field(ge=_MIN_ROW_HEIGHT)] = 360,
        in_tensorboard: NonNegativeInt = 20,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.images = dict(images)
        self.row_height = row_height
        self.in_tensorboard = in_tensorboard
        self.last: Path | None = None
        self._items: list[int] | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw on the first process, except in Lightning's sanity check."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule) and isinstance(pl_module, RoiSegModule)
        if self._items is None:
            self._items = choose_items(data.dataset("val"), self.images)
        image = two_row_overlay(self._columns(trainer, pl_module, data), row_height=self.row_height)
        epoch = trainer.current_epoch + 1
        self.last = write_image(self.output_dir / f"validation_all_images_epoch_{epoch:04d}.png", image)
        for writer in writers(trainer) if self._goes_to_tensorboard(trainer) else ():
            writer.add_image("val/overlays", image, epoch, dataformats="HWC")

    def add_to_summary(self, summary: RunSummary) -> None:
        """Set the newest image."""
        summary.last_overlay = str(self.last) if self.last else None

    def _goes_to_tensorboard(self, trainer: L.Trainer) -> bool:
        validation = (trainer.current_epoch + 1) // (trainer.check_val_every_n_epoch or 1)
        interval = 1
        while validation > interval * self.in_tensorboard > 0:
            interval *= 2
        return self.in_tensorboard > 0 and validation % interval == 0

    def _columns(self, trainer: L.Trainer, module: RoiSegModule, data: RoiDataModule) -> list[OverlayColumn]:
        assert self._items is not None
        samples = data.samples("val", self._items)
        batch = data.extract(collate(samples).to(module.device))
        with trainer.precision_plugin.forward_context():
            pasted = iter(paste_masks(module.predict(batch), batch))
        columns = []
        for sample, rois in zip(samples, batch.original_boxes(), strict=True):
            masks = [next(pasted).canvas() for _ in rois]
            columns.append(_column(data.dataset("val"), sample, rois, masks))
        return columns


def _column(
    dataset: RoiDataset, sample: RoiSample, boxes: NDArray[np.float32], masks: list[NDArray[np.bool_]]
) -> OverlayColumn:
    height, width = sample.original_size
    return OverlayColumn(
        title=sample.file_name,
        image=read_image(image_path(dataset.image_dir, sample.file_name)),
        boxes=boxes,
        truth=np.array([decode(truth) for truth in sample.truth.rles]).reshape(-1, height, width),
        prediction=np.array(masks, dtype=bool).reshape(-1, height, width),
    )


def choose_items(dataset: RoiDataset, images: Mapping[str, int]) -> list[int]:
    """Return the items to draw, one per entry of `images`: the file, or else an unused image with as many
    persons, or with the nearest number of persons.
    """
    annotations = dataset.annotations
    names = [Path(name).name for name in annotations.file_names[dataset.images].tolist()]
    counts = annotations.eligible_counts(dataset.min_roi_size)[dataset.images].tolist()
    named = {name: names.index(name) for name in images if name in names}
    chosen: list[int] = []
    for name, persons in images.items():
        free = [item for item in range(len(names)) if item not in chosen and item not in named.values()]
        if name in named:
            chosen.append(named[name])
        elif free:
            chosen.append(min(free, key=lambda item: (abs(counts[item] - persons), item)))
            if named:  # else the configuration is for another data set
                log.info("overlays: %s is not in the data set, using %s", name, names[chosen[-1]])
    return chosen
