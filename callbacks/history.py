"""The logged metrics of a training: their history epoch by epoch, and the progress bar."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from roiseg.config.run_summary import RunSummary, SummaryCallback
from roiseg.metrics.registry import SHORT, labels

log = logging.getLogger(__name__)

_LINE = {"train/loss": "loss", **labels("val", SHORT)}


class History(L.Callback, SummaryCallback):
    """Collects the logged metrics of each epoch; checkpoints contain them, so a resumed run has them all.

    Attributes:
        epochs: one dict per epoch, in order: `epoch` (1-based) and the metrics under their logged names. An
            epoch within which training ended and was resumed has two.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that this epoch was validated; otherwise the trainer still shows old values."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store what the epoch logged."""
        logged = {name: float(value) for name, value in trainer.logged_metrics.items() if "/" in name}
        metrics = {
            name: value for name, value in logged.items() if self._validated or not name.startswith("val/")
        }
        self._validated = False
        self.epochs.append({"epoch": trainer.current_epoch + 1, **metrics})
        figures = "  ".join(
            f"{label} {metrics[name]:.4f}" for name, label in _LINE.items() if name in metrics
        )
        last = _of_epochs(trainer)
        log.info("epoch %*d%s  %s", len(last) - 1, trainer.current_epoch + 1, last, figures)

    def add_to_summary(self, summary: RunSummary) -> None:
        """Set the metrics of all epochs."""
        summary.history = self.epochs

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.epochs = list(state_dict["epochs"])


def _of_epochs(trainer: L.Trainer) -> str:
    """Return "/20" for 20 epochs; nothing if steps or time limit the run."""
    return "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with epochs counted from 1 and without the version of the logger."""

    def _get_train_description(self, current_epoch: int) -> str:
        """Count from 1, as checkpoints, figures and TensorBoard do; as wide as the bar of the validation."""
        label = f"Epoch {current_epoch + 1}{_of_epochs(self.trainer)}"
        return label.ljust(len(self.validation_description))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the metrics that the bar shows."""
        return {
            key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"
        }
