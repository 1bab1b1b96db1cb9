"""One full checkpoint an epoch, named by epoch, input size and mIoU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


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
