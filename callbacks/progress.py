"""The progress bar of a training."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with epochs counted from 1 and without the version of the logger."""

    def _get_train_description(self, current_epoch: int) -> str:
        """Count from 1, as checkpoints, figures and TensorBoard do; as wide as the bar of the validation."""
        last = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs}"
        return f"Epoch {current_epoch + 1}{last}".ljust(len(self.validation_description))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics that the bar shows."""
        return {
            key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"
        }
