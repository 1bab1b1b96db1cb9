"""Lightning's warnings that do not apply to roiseg, and its errors that are mistakes of the user."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from roiseg.common.errors import UserError

_WARNINGS = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    ".*was used without a .* scheduler.*",
    ".*checkpoint that ended before the epoch ended.*",  # data.first_batch
    ".*recommended to use .self.log.*sync_dist=True.*",  # metrics are of all processes already
    ".*it is recommended to use .Trainer.devices=1.*",  # evaluation repeats no image
    ".*method of metric .* was called before.*",  # on a process without an image to evaluate
    ".*broadcast_buffers. is deprecated.*",  # its successor is not in older torch
    ".*exists and is not empty.*",  # a resumed run continues in its own folder
)


@contextmanager
def silence_lightning_warnings() -> Iterator[None]:
    """Hide Lightning's warnings that do not apply."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def trainer_errors() -> Iterator[None]:
    """Convert Lightning's own errors about the data into a UserError.

    Raises:
        UserError: settings of the trainer that do not fit the data.
    """
    try:
        yield
    except (MisconfigurationException, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("lightning."):
            raise UserError(f"configuration `trainer`: {error}") from None
        raise
