"""Results of the instances of the test: a table of all, and sheets of the worst and the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from pydantic import NonNegativeInt
from torch import distributed

from roiseg.callbacks.tensorboard import writers
from roiseg.data.datamodule import RoiDataModule
from roiseg.evaluation.evaluator import write_table
from roiseg.evaluation.ranking import RankedInstance, Ranking, ranking_sheet
from roiseg.metrics.instance import InstanceRecord
from roiseg.metrics.roi import MeasuredBatch
from roiseg.visualize.canvas import write_image

T = TypeVar("T")


def gather_from_all(items: list[T]) -> list[T]:
    """Return the items of all processes, on each process; all of them must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


class InstanceTable(L.Callback):
    """Writes one row per instance when the test ends, see `write_table`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: list[InstanceRecord] = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the records of an earlier test."""
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
        """Collect the measured instances."""
        if isinstance(outputs, MeasuredBatch):
            self._records += outputs.records

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of all processes in the first process."""
        records = gather_from_all(self._records)
        if trainer.is_global_zero:
            write_table(self.path, records)


class InstanceSheets(L.Callback):
    """Writes `test_worst.png` and `test_best.png` when the test ends, ordered by instance IoU.

    Only the ranked instances are kept in memory, as RLE; their images are read again at the end. Both sheets
    also go to TensorBoard.
    """

    def __init__(self, output_dir: str | Path, count: NonNegativeInt = 12) -> None:
        self.output_dir = Path(output_dir)
        self.count = count
        self.rankings: dict[str, Ranking] = {}

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the rankings of an earlier test."""
        self.rankings = {"worst": Ranking(1, self.count), "best": Ranking(-1, self.count)}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the rankings."""
        if isinstance(outputs, MeasuredBatch):
            for pasted, record in zip(outputs.masks, outputs.records, strict=True):
                for ranking in self.rankings.values():
                    ranking.add(pasted, record)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the sheets over all processes on the first."""
        for name, ranking in self.rankings.items():
            merged = Ranking(ranking.sign, ranking.count)
            for instance in gather_from_all(ranking.kept):
                merged.insert(instance)
            if trainer.is_global_zero and merged.kept:
                self._draw(trainer, name, merged.kept)

    def _draw(self, trainer: L.Trainer, name: str, kept: Sequence[RankedInstance]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule)
        image = ranking_sheet(name, kept, data.dataset("val"))
        write_image(self.output_dir / f"test_{name}.png", image)
        for writer in writers(trainer):
            writer.add_image(f"test/{name}", image, trainer.current_epoch, dataformats="HWC")
