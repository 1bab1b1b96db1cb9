"""A table of how well every single instance of the test was met."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.gather import gather
from roiseg.common.files import atomic_path
from roiseg.training.instances import InstanceRecord


class InstanceTable(L.Callback):
    """Writes one row an instance when the test ends, sorted by image and annotation.

    The columns are those of `InstanceRecord`; boxes are rounded to a thousandth of a pixel.

    Args:
        path: the csv file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: list[InstanceRecord] = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self._records = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect what the module has measured."""
        if outputs is not None:
            self._records += outputs["records"]

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of all processes, on the first."""
        records = gather(self._records)
        if trainer.is_global_zero:
            write_table(self.path, records)


def write_table(path: Path, records: list[InstanceRecord]) -> None:
    """Write records as csv, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(InstanceRecord._fields)
        for record in sorted(records, key=lambda r: (r.image_id, r.annotation_id)):
            box = {side: round(getattr(record, side), 3) for side in ("x1", "y1", "x2", "y2")}
            writer.writerow(record._replace(**box))
