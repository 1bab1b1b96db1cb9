"""Images of the instances that the test met worst and best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from roiseg.callbacks.results import gather_from_all
from roiseg.callbacks.tensorboard import writers
from roiseg.data.datamodule import RoiDataModule
from roiseg.evaluation.ranking import RankedInstance, Ranking, ranking_sheet
from roiseg.metrics.roi import MeasuredBatch
from roiseg.visualize.canvas import save_png


class InstanceSheets(L.Callback):
    """Writes `test_worst.png` and `test_best.png` when the test ends, ordered by instance IoU.

    Only the instances shown are kept in memory, as RLE; their images are read again at the end. Both go
    to TensorBoard, too.

    Args:
        output_dir: folder of the images.
        count: instances an image.
    """

    def __init__(self, output_dir: str | Path, count: int = 12) -> None:
        self.output_dir = Path(output_dir)
        self.count = count
        self.rankings: dict[str, Ranking] = {}

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
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
        """Keep the worst and the best so far."""
        if isinstance(outputs, MeasuredBatch):
            for pasted, record in zip(outputs.masks, outputs.records, strict=True):
                for ranking in self.rankings.values():
                    ranking.add(pasted, record)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw those of all processes, on the first."""
        for name, ranking in self.rankings.items():
            together = Ranking(ranking.sign, ranking.count)
            for instance in gather_from_all(ranking.kept):
                together.insert(instance)
            if trainer.is_global_zero and together.kept:
                self._draw(trainer, name, together.kept)

    def _draw(self, trainer: L.Trainer, name: str, kept: Sequence[RankedInstance]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule)
        picture = ranking_sheet(name, kept, data.dataset("val"))
        save_png(self.output_dir / f"test_{name}.png", picture)
        for writer in writers(trainer):
            writer.add_image(f"test_{name}", picture, trainer.current_epoch, dataformats="HWC")
