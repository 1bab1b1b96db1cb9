"""The terminal: one rich console, one way to show progress."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

T = TypeVar("T")


class Terminal(Console):
    """Standard output; the work goes on if its reader, such as `head`, ends."""

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        _discard_output()


class StdoutHandler(logging.StreamHandler):
    """Writes log lines to what `sys.stdout` is at the time, so that rich puts them above a progress bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def handleError(self, record: logging.LogRecord) -> None:
        """Discard all further output if it cannot be written, or its reader has ended."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"roiseg: output cannot be written ({error.strerror}): going on without it\n")
        _discard_output()

    @property
    def stream(self) -> TextIO:
        """Return the stream."""
        return sys.stdout


def flush_output(text: str = "") -> bool:
    """Write `text` and what is buffered; if that fails, return False and discard all further output."""
    try:
        print(end=text, flush=True)  # does nothing if there is no output (`>&-`)
    except OSError:
        _discard_output()
        return False
    return True


def _discard_output() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


console = Terminal(markup=False, emoji=False)  # file names may look like markup


def print_text(text: str) -> None:
    """Print text as it is: not wrapped, not highlighted."""
    console.print(text, soft_wrap=True, highlight=False)


def print_values(values: Mapping[str, Any]) -> None:
    """Print `name: value` lines whose paths can be copied; those below the working directory are relative."""
    here = f"{Path.cwd()}/"
    for name, value in values.items():
        print_text(f"{name}: {value}".replace(here, ""))


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
