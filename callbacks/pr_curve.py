"""Precision and recall of the target class at every threshold, in TensorBoard."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.tensorboard import writers
from roiseg.common.errors import UserError
from roiseg.data.batch import RoiBatch
from roiseg.training.binned_curve import BinnedCurve


class PrCurve(L.Callback):
    """Writes the precision-recall curve of the target's pixels after validations, as `target`.

    Counted are the pixels of the grid over each ROI that validation's IoU counts (`data.metric_size`), of
    all ROIs together. A curve takes 24 bytes a threshold in the event file, 3 kB with 127.

    Args:
        every_n_epochs: draw after validations of every n-th epoch only.
        thresholds: points of the curve.
    """

    def __init__(self, every_n_epochs: int = 1, thresholds: int = 127) -> None:
        for name, value, least in (("every_n_epochs", every_n_epochs, 1), ("thresholds", thresholds, 2)):
            if value < least:
                raise UserError(f"callbacks.pr_curve.{name} must be {least} or more, got {value}")
        self.every_n_epochs = every_n_epochs
        self.curve = BinnedCurve(thresholds)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the last validation."""
        self.curve.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the pixels of what the module has measured."""
        if outputs is not None and self._due(trainer):
            assert isinstance(batch, RoiBatch)
            self.curve.update(outputs["on_rois"], batch.measured)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the curve of all processes, on the first."""
        if not self._due(trainer):
            return
        curve = {name: values.cpu() for name, values in self.curve.compute().items()}
        for writer in writers(trainer):
            writer.add_pr_curve_raw(
                "target", **curve, global_step=trainer.current_epoch + 1, num_thresholds=self.curve.thresholds
            )

    def _due(self, trainer: L.Trainer) -> bool:
        logged = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        return (
            logged and not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        )
