"""Pictures of the instances that the test met worst and best."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.gather import gather
from roiseg.data.batch import RoiBatch
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.data.rle import decode_window, encode_window
from roiseg.training.instances import InstanceRecord, paste_instance
from roiseg.training.module import RoiSegModule
from roiseg.visualize.cases import Case, case_sheet, surroundings
from roiseg.visualize.overlays import save_png


@dataclass(frozen=True)
class Prediction:
    """One instance of the test and what was predicted for it, as RLE of the original image."""

    record: InstanceRecord
    image_index: int
    mask: dict[str, Any]


class Ranking:
    """Keeps the predictions of lowest rank, which is IoU times `sign`.

    Args:
        sign: 1 keeps the worst, -1 the best.
        count: how many.
    """

    def __init__(self, sign: int, count: int) -> None:
        self.sign = sign
        self.count = count
        self.kept: list[Prediction] = []

    def wants(self, record: InstanceRecord) -> bool:
        """Is it among the kept, as far as is known?"""
        return len(self.kept) < self.count or self._rank(record) < self._rank(self.kept[-1].record)

    def add(self, prediction: Prediction) -> None:
        """Take one in, and let go of the one too many."""
        bisect.insort(self.kept, prediction, key=lambda kept: self._rank(kept.record))
        del self.kept[self.count :]

    def _rank(self, record: InstanceRecord) -> tuple[float, int, int]:
        return self.sign * record.iou, record.image_id, record.annotation_id


class Extremes(L.Callback):
    """Writes `test_worst.png` and `test_best.png` when the test ends, ordered by instance IoU.

    Only the instances shown are kept in memory, as RLE; their pictures are read again at the end. Both go
    to TensorBoard, too.

    Args:
        output_dir: folder of the pictures.
        count: instances a picture.
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
                    ranking.add(Prediction(record, sample.image_index, mask))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw those of all processes, on the first."""
        for name, ranking in self.rankings.items():
            together = Ranking(ranking.sign, ranking.count)
            for prediction in gather(ranking.kept):
                together.add(prediction)
            if trainer.is_global_zero and together.kept:
                self._draw(trainer, name, together.kept)

    def _draw(self, trainer: L.Trainer, name: str, kept: Sequence[Prediction]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule)
        dataset = data.dataset("val")
        title = f"{name} {len(kept)} of the test by instance IoU"
        picture = case_sheet(title, [_case(dataset, prediction) for prediction in kept])
        save_png(self.output_dir / f"test_{name}.png", picture)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"test_{name}", picture, trainer.current_epoch, dataformats="HWC")


def _case(dataset: RoiDataset, prediction: Prediction) -> Case:
    """The instance's part of its picture, with all that is annotated there."""
    record, index, annotations = prediction.record, prediction.image_index, dataset.annotations
    box = np.array([record.x1, record.y1, record.x2, record.y2])
    x1, y1, x2, y2 = window = surroundings(box, annotations.size(index))
    instances, outlines = annotations.instances(index), annotations.outlines(index)
    masks = np.array([decode_window(outlines.rle(i), window) for i in range(len(outlines))])
    own = annotations.ids[instances] == record.annotation_id
    side = np.sqrt((record.x2 - record.x1) * (record.y2 - record.y1))
    return Case(
        title=f"{record.file_name} #{record.annotation_id}",
        note=f"IoU {record.iou:.2f}  side {side:.0f} px",
        image=read_image(dataset.image_dir / record.file_name)[y1:y2, x1:x2],
        box=box - [x1, y1, x1, y1],
        truth=masks[own][0],
        prediction=decode_window(prediction.mask, window),
        others=masks[~own & ~annotations.crowd[instances]],
    )
