"""A table of how well every single instance of the test was met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from callbacks.gather import gather
from roiseg.evaluation.instance_table import write_table
from roiseg.training.instances import InstanceRecord


class InstanceTable(L.Callback):
    """Writes one row an instance when the test ends, see `write_table`.

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
