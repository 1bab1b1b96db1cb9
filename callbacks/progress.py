"""The progress bar of a training."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with epochs counted from 1 and without the version of the logger."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from 1, as checkpoints, figures and TensorBoard do."""
        super().on_train_epoch_start(trainer, pl_module)
        bar: Any = self.progress
        if bar is not None and self.train_progress_bar_id is not None:
            last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
            bar.update(self.train_progress_bar_id, description=f"Epoch {trainer.current_epoch + 1}{last}")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics that the bar shows."""
        return {
            key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"
        }
