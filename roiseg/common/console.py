"""The terminal: one rich console, one way to show progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

console = Console(markup=False, emoji=False)  # file names may look like markup

T = TypeVar("T")


class StdoutHandler(logging.StreamHandler):
    """Writes log lines to what `sys.stdout` is at the time, so that rich puts them above a progress bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Return the stream."""
        return sys.stdout


def print_values(values: Mapping[str, Any]) -> None:
    """Print `name: value` lines whose paths can be copied; those below the working directory are relative."""
    here = f"{Path.cwd()}/"
    for name, value in values.items():
        console.print(f"{name}: {value}".replace(here, ""), soft_wrap=True, highlight=False)


def status(text: str) -> Status:
    """Return a spinner that shows `text` literally while a block runs."""
    return console.status(Text(text))


def progress_bar() -> Progress:
    """Return a rich progress display (description, bar, n of m, time left) on the shared console."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` under a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=description)
