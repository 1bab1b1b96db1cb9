"""One full checkpoint an epoch, named by epoch, input size and mIoU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from roiseg.common.files import atomic_path
from roiseg.common.outputs import remove
from roiseg.inference.checkpoint import newest


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then moves it there.

    Lightning writes it to the system's temporary folder first. From there to another file system a move is
    a copy, which a killed process leaves half done under the final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint`; `path` holds all of it or what was there before."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one of this run's; what a checkpoint says its run had kept is not removed elsewhere."""
        remove(Path(path))


class EpochCheckpoint(ModelCheckpoint):
    """Saves `checkpoint_epoch_{epoch:04d}_{H}x{W}_{mIoU * 10000:04d}.pth` after every epoch.

    The first epoch is 0001; mIoU is rounded (0.8551 -> 8551). Files are written whole or not at all.

    Args:
        dirpath: folder of the checkpoints.
        image_size: (H, W) of the extractor's input.
        monitor: logged metric in [0, 1] that names the file and decides which is best.
        keep: how many of the best to keep; -1 keeps every epoch.
        every_n_epochs: save after every n-th epoch only; give `trainer.check_val_every_n_epoch`, if it is
            not 1, so that there is a fresh metric.
    """

    FILE_EXTENSION = ".pth"

    def __init__(
        self,
        dirpath: str | Path,
        image_size: Sequence[int],
        monitor: str = "val/miou",
        keep: int = -1,
        every_n_epochs: int = 1,
    ) -> None:
        super().__init__(
            dirpath=str(dirpath),
            filename="checkpoint_epoch",
            monitor=monitor,
            mode="max",
            save_top_k=keep,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,  # after validation, with the epoch counted as done
            enable_version_counter=False,
        )
        self.image_size = image_size

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the trainer write whole files."""
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = WholeFiles()

    def format_checkpoint_name(
        self,
        metrics: dict[str, Tensor],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """The file's path for an epoch's metrics."""
        assert self.dirpath is not None and self.monitor is not None
        name = checkpoint_name(int(metrics["epoch"]) + 1, self.image_size, float(metrics[self.monitor]))
        return str(Path(self.dirpath) / name)

    def _ModelCheckpoint__warn_if_dir_not_empty(self, dirpath: Any) -> None:
        """A resumed run continues in its own folder: nothing to warn of."""


def checkpoint_name(epoch: int, image_size: Sequence[int], miou: float) -> str:
    """File name of the checkpoint of 1-based `epoch`."""
    height, width = image_size
    return f"checkpoint_epoch_{epoch:04d}_{height}x{width}_{round(miou * 10_000):04d}.pth"


def kept(folder: str | Path | None) -> str:
    """What a line about the end of a run says about its checkpoints."""
    last = newest(Path(folder)) if folder else None
    if last is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {last}, where ckpt_path=last goes on"
