"""TensorBoard writers, precision-recall curves and hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import Field, PositiveInt
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from roiseg.common.files import as_utf8
from roiseg.config.private_api import write_summary
from roiseg.metrics.confusion import PrecisionRecallCurve
from roiseg.metrics.roi import MeasuredBatch
from roiseg.reporting.runs import flatten
from roiseg.training.module import RoiSegModule

Value = str | float | int | bool

# what TensorBoard's HPARAMS tab shows of a run
_GROUPS = (
    "experiment", "model", "loss", "data", "data/augment", "data/augment/paste", "tta", "decision",
    "extractor", "optimizer", "scheduler",
)  # fmt: skip
_KEYS = (
    "seed", "model.num_classes", "model.film", "model.detail", "data.batch_size", "data.folds.held_out",
    "optimizer.lr", "trainer.max_epochs", "trainer.precision",
)  # fmt: skip
_LEFT_OUT = ("paths", "callbacks", "logger", "ckpt_path")


def writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """Return the writer of every TensorBoard logger; on other processes than the first, an empty list."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class PrCurve(L.Callback):
    """Writes the precision-recall curve of the target's pixels after validations, as `target`.

    It counts the pixels of the grid over each ROI that the validation IoU uses (`data.metric_size`), over all
    ROIs. A curve takes 24 bytes per threshold in the event file, 3 kB with 127.

    Args:
        every_n_epochs: write the curve of every n-th epoch only.
        thresholds: number of points of the curve.
    """

    def __init__(
        self, every_n_epochs: PositiveInt = 1, thresholds: Annotated[int, Field(ge=2)] = 127
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.curve = PrecisionRecallCurve(thresholds)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the counts of the last validation."""
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
        """Count the pixels of a measured batch."""
        if isinstance(outputs, MeasuredBatch) and self._due(trainer):
            self.curve.update(outputs.prediction.grid_target, batch.metric_targets)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the curve over all processes on the first."""
        if not self._due(trainer):
            return
        curve = {name: values.cpu() for name, values in self.curve.compute().items()}
        for writer in writers(trainer):
            writer.add_pr_curve_raw(
                "val/pr_curve",
                **curve,
                global_step=trainer.current_epoch + 1,
                num_thresholds=self.curve.thresholds,
            )

    def _due(self, trainer: L.Trainer) -> bool:
        logged = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        return (
            logged and not trainer.sanity_checking and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        )


class HyperParameters(L.Callback):
    """Adds the run to TensorBoard's HPARAMS tab: a row with its settings and the last value of every scalar.

    Settings are the choices of `_GROUPS`, the values of `_KEYS`, and all overrides on the command line but
    those below `_LEFT_OUT`. Columns are not declared: TensorBoard then shows those of all runs, whereas a
    declaration in one run's file would hide settings that only other runs have.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings."""
        assert isinstance(pl_module, RoiSegModule)
        config = flatten(pl_module.description.get("config", {}))
        settings = {**_choices(), **values_of(config, [*_KEYS, *_overridden()])}
        _, start, _ = hparams(settings, {})
        self._write(trainer, start)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the run as finished."""
        _, _, end = hparams({}, {})
        self._write(trainer, end)

    def _write(self, trainer: L.Trainer, summary: Any) -> None:
        for writer in writers(trainer):
            write_summary(writer, summary)


def _choices() -> dict[str, Value]:
    """Return the choices of configuration groups."""
    if not HydraConfig.initialized():  # composed in Python
        return {}
    choices = HydraConfig.get().runtime.choices
    return {group: choices[group] for group in _GROUPS if choices.get(group) is not None}


def _overridden() -> list[str]:
    """Return the overridden keys that are shown."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    return [key for key in keys if not any(key == out or key.startswith(f"{out}.") for out in _LEFT_OUT)]


def values_of(config: dict[str, Any], keys: Sequence[str]) -> dict[str, Value]:
    """Return the values of `keys` that are set; anything but numbers and booleans as text."""
    values = {key: config[key] for key in dict.fromkeys(keys) if config.get(key) is not None}
    return {
        key: value if isinstance(value, (float, int, bool)) else as_utf8(str(value))
        for key, value in values.items()
    }
