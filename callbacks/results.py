"""What the processes of a run hold, together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from torch import distributed

from roiseg.evaluation.result_files import write_table
from roiseg.metrics.instance import InstanceRecord
from roiseg.metrics.registry import labels
from roiseg.metrics.roi import MeasuredBatch

T = TypeVar("T")


def gather_from_all(items: list[T]) -> list[T]:
    """The items of all processes, on every one of them; all must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


log = logging.getLogger(__name__)

_LINE = {"train/loss": "loss", **labels("val", ("miou", "target_iou", "instance_iou"))}


class History(L.Callback):
    """Collects the logged metrics of each epoch; kept in the checkpoint, so a resumed run has them all.

    Attributes:
        epochs: one dict an epoch, in order: `epoch` (1-based) and the metrics under their logged names.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """This epoch has figures of its own; the trainer goes on showing them in epochs without."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note what the epoch logged."""
        logged = {name: float(value) for name, value in trainer.logged_metrics.items() if "/" in name}
        metrics = {
            name: value for name, value in logged.items() if self._validated or not name.startswith("val/")
        }
        self._validated = False
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})
        figures = "  ".join(
            f"{label} {metrics[name]:.4f}" for name, label in _LINE.items() if name in metrics
        )
        log.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, figures)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.epochs = list(state_dict["epochs"])


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
        if isinstance(outputs, MeasuredBatch):
            self._records += outputs.records

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of all processes, on the first."""
        records = gather_from_all(self._records)
        if trainer.is_global_zero:
            write_table(self.path, records)
