"""Where callbacks write what only TensorBoard shows."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """The writer of every TensorBoard logger, on the first process; else, and without such a logger, none."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
