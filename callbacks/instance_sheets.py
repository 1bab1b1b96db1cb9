"""Images of the instances that the test met worst and best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from roiseg.callbacks.results import gather_from_all
from roiseg.callbacks.tensorboard import writers
from roiseg.data.batch import RoiBatch
from roiseg.data.datamodule import RoiDataModule
from roiseg.evaluation.ranking import RankedInstance, Ranking, ranking_sheet
from roiseg.geometry.rle import encode_window
from roiseg.metrics.instance import paste_instance
from roiseg.training.module import RoiSegModule
from roiseg.visualize.overlays import save_png


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
        """Keep what belongs to the extremes so far."""
        if outputs is None:
            return
        assert isinstance(pl_module, RoiSegModule) and isinstance(batch, RoiBatch)
        rois, boxes = (
            np.concatenate(batch.original_boxes(windows)) for windows in (None, outputs["windows"])
        )
        images = batch.rois[:, 0].long().tolist()
        for number, record in enumerate(outputs["records"]):
            takers = [ranking for ranking in self.rankings.values() if ranking.wants(record)]
            if takers:
                sample = batch.samples[images[number]]
                probability = outputs["probabilities"][number].cpu()
                shown, window = paste_instance(probability, sample, boxes[number], rois[number])
                mask = encode_window(shown, window, sample.original_size)
                for ranking in takers:
                    ranking.add(RankedInstance(record, sample.image_index, mask))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw those of all processes, on the first."""
        for name, ranking in self.rankings.items():
            together = Ranking(ranking.sign, ranking.count)
            for instance in gather_from_all(ranking.kept):
                together.add(instance)
            if trainer.is_global_zero and together.kept:
                self._draw(trainer, name, together.kept)

    def _draw(self, trainer: L.Trainer, name: str, kept: Sequence[RankedInstance]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule)
        picture = ranking_sheet(name, kept, data.dataset("val"))
        save_png(self.output_dir / f"test_{name}.png", picture)
        for writer in writers(trainer):
            writer.add_image(f"test_{name}", picture, trainer.current_epoch, dataformats="HWC")
