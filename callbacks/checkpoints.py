"""Write one full checkpoint per epoch, named by epoch, input size and mIoU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from pydantic import Field, PositiveInt
from torch import Tensor

from roiseg.common.files import atomic_path
from roiseg.common.outputs import remove
from roiseg.common.signals import Stop
from roiseg.config.run_summary import RunSummary, SummaryCallback
from roiseg.inference.checkpoint_folder import (
    checkpoint_name,
    in_epoch_name,
    newest_checkpoint,
    remove_outdated,
)
from roiseg.training.module import RoiSegModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its destination, then moves it there.

    Lightning writes it to the system's temporary folder first. Moving it to another file system is
    a copy, which a killed process leaves incomplete under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint`; `path` holds all of it or what was there before."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this run; those of other folders that a checkpoint names are not removed."""
        remove(Path(path))


class EpochCheckpoint(ModelCheckpoint, SummaryCallback):
    """Saves `checkpoint_epoch_{epoch:04d}_{H}x{W}_{mIoU * 10000:04d}.pth` after every epoch.

    The first epoch is 0001; mIoU is rounded (0.8551 -> 8551). Writes are atomic. Where training ends, even
    within an epoch (`trainer.max_steps`, `trainer.max_time`), the model is validated and saved, whatever the
    intervals.

    Args:
        image_size: (H, W) of the extractor's input.
        monitor: logged metric in [0, 1], part of the file name; selects the best checkpoint.
        keep: how many of the best to keep; -1 keeps every epoch.
        every_n_epochs: save after every n-th epoch and the last; give `trainer.check_val_every_n_epoch`, if
            it is not 1, so that there is a fresh metric.
    """

    FILE_EXTENSION = ".pth"

    def __init__(
        self,
        dirpath: str | Path,
        image_size: Sequence[int],
        monitor: str = "val/miou",
        keep: Annotated[int, Field(ge=-1)] = -1,
        every_n_epochs: PositiveInt | None = 1,
    ) -> None:
        super().__init__(
            dirpath=str(dirpath),
            filename="checkpoint_epoch",
            monitor=monitor,
            mode="max",
            save_top_k=keep,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,  # after validation, when the epoch counts as finished
            enable_version_counter=False,
        )
        self.image_size = image_size
        self._last = False  # training ends with this epoch
        self._within: dict[str, Any] | None = None  # the position, if it ends within this epoch

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the trainer's writes atomic."""
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the model validated after this epoch, or this step, if training ends there."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        ends_now = _is_last_step(trainer, batch_idx + 1)
        self._last = ends_now or 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        if self._last and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1
            if ends_now:
                trainer.val_check_batch = batch_idx + 1
        if ends_now and batch_idx + 1 < trainer.num_training_batches:
            self._within = _position(trainer, pl_module, batch_idx + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if due, and at the end of training."""
        super().on_train_epoch_end(trainer, pl_module)
        assert self.monitor is not None
        saved = (trainer.current_epoch + 1) % (self.every_n_epochs or 1) == 0 or self.save_top_k == 0
        score = trainer.callback_metrics.get(self.monitor)
        if not self._last or saved or score is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.format_checkpoint_name({
            "epoch": torch.tensor(trainer.current_epoch), self.monitor: score
        })  # fmt: skip
        if self.best_model_score is None or score > self.best_model_score:
            self.best_model_path, self.best_model_score = path, score
        trainer.save_checkpoint(path)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the position in the epoch, if training ends within it."""
        if self._within is not None:
            checkpoint["in_epoch"] = self._within
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            epochs["processed"] = epochs["completed"]  # Lightning counts the epoch already, but it goes on

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume within the epoch, if training ended there."""
        _resume_within(pl_module, checkpoint)

    def format_checkpoint_name(
        self,
        metrics: dict[str, Tensor],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """Return the path of the file for an epoch's metrics."""
        assert self.dirpath is not None and self.monitor is not None
        name = checkpoint_name(int(metrics["epoch"]) + 1, self.image_size, float(metrics[self.monitor]))
        return str(Path(self.dirpath) / name)

    def add_to_summary(self, summary: RunSummary) -> None:
        """Set the best checkpoint and the monitored metric."""
        assert self.monitor is not None
        summary.monitor = self.monitor
        summary.best_checkpoint = self.best_model_path or None


def _position(trainer: L.Trainer, module: L.LightningModule, batches: int) -> dict[str, Any]:
    """Return the number of finished steps of an epoch, of all its steps, and its losses so far."""
    assert isinstance(module, RoiSegModule)
    return {
        "batches": batches, "steps": int(trainer.num_training_batches), "losses": module.train_losses(),
    }  # fmt: skip


def _resume_within(module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
    if within := checkpoint.get("in_epoch"):
        assert isinstance(module, RoiSegModule)
        module.resume_from(within["losses"])


def _is_last_step(trainer: L.Trainer, batches: int) -> bool:
    """Tell whether training ends, by steps or on request, after these many batches of the epoch."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return True
    epochs = trainer.current_epoch + (batches >= trainer.num_training_batches)
    may_end = (trainer.min_epochs or 0) <= epochs and (trainer.min_steps or 0) <= trainer.global_step
    return bool(trainer.should_stop and may_end)


def tested_checkpoint(checkpoints: Any, best: bool) -> Path | None:
    """Return the best checkpoint of a checkpoint callback, or its newest; None if there is none."""
    if not best:
        folder = getattr(checkpoints, "dirpath", None)
        return None if folder is None else newest_checkpoint(Path(folder))
    path = getattr(checkpoints, "best_model_path", "")
    return Path(path) if path else None


def last_checkpoint_message(folder: str | Path | None) -> str:
    """Describe the newest checkpoint, for the line printed when a run ends."""
    last = newest_checkpoint(Path(folder)) if folder else None
    if last is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {last}, where ckpt_path=last resumes"


class MidEpochCheckpoint(Checkpoint):
    """Saves `checkpoint_in_epoch_{epoch:04d}.pth`, the first epoch 0001, from which a run resumes exactly.

    A run that is terminated (SIGTERM, Ctrl-C) ends after the current step, or after the validation if the
    epoch has no more steps; then the epoch's own checkpoint exists. There is one such file at a time, and
    it is removed once its epoch is saved.

    Args:
        every_n_steps: also save after every n-th optimizer step; None: only when terminated.

    Attributes:
        stop: tells whether the run is being terminated; None: signals are not checked.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: PositiveInt | None = None) -> None:
        self.dirpath = Path(dirpath)
        self.every_n_steps = every_n_steps
        self.stop: Stop | None = None
        self._batches: int | None = None  # finished steps of the epoch, while a checkpoint is written

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Defer signals to the end of the step from now on."""
        self._take_back()
        self._defer(True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See `_take_back`: the first validation comes before the training."""
        self._take_back()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See `_take_back`."""
        self._take_back()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End here if terminated in the previous epoch, which is saved and logged completely."""
        self._defer(True)
        self._end_if(self._told_to_end(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due, and end if terminated; all other callbacks have finished this step."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        ends = self._told_to_end(trainer)
        if ends or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self._batches = done
            trainer.save_checkpoint(self.dirpath / in_epoch_name(trainer.current_epoch + 1))
            self._batches = None
            self._remove_outdated(trainer)
        self._end_if(ends)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the checkpoint within the epoch once the epoch is saved."""
        self._remove_outdated(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End here if terminated in the last epoch; the export follows with `ckpt_path=last`."""
        ends = self._told_to_end(trainer)
        self._defer(False)
        self._end_if(ends)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Let signals end the run immediately from now on."""
        self._defer(False)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the position in the epoch and its losses, if this is within an epoch."""
        if self._batches is not None:
            checkpoint["in_epoch"] = _position(trainer, pl_module, self._batches)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume within the epoch, if the checkpoint was written there."""
        _resume_within(pl_module, checkpoint)

    def _remove_outdated(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            remove_outdated(self.dirpath)

    def _take_back(self) -> None:
        """Restore our signal handlers, since Lightning's communicate with other processes."""
        if self.stop is not None:
            self.stop.take_back()

    def _defer(self, deferred: bool) -> None:
        if self.stop is not None:
            self.stop.deferred = deferred

    def _told_to_end(self, trainer: L.Trainer) -> bool:
        """Tell whether any process was terminated."""
        told = self.stop is not None and self.stop.came is not None
        return trainer.strategy.reduce_boolean_decision(told, all=False)

    def _end_if(self, told: bool) -> None:
        if told and self.stop is not None:
            self.stop.now()
