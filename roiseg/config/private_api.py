"""Private names of Hydra, Lightning and TensorBoard that have no public counterpart: all of them are here.

tests/config/test_private_api.py fails when a release changes one, or when another file uses a private name.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch.utils.tensorboard import SummaryWriter


def parse_command_line(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line as Hydra does; `overrides` holds the words that are not options."""
    return get_args_parser().parse_args(list(arguments))


def raw_value(override: Override) -> Any:
    """Return the value of an override as written; `value()` drops the quotes."""
    return override._value


def write_summary(writer: SummaryWriter, summary: Any) -> None:
    """Add a TensorBoard summary to the run's own file; `add_hparams` would open a second run."""
    writer._get_file_writer().add_summary(summary)


def stop_child_observers() -> None:
    """End Lightning's threads that kill this process within 5 s of the failure of another."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # with none to observe it ends
