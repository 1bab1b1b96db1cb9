"""How a run ends that is told to: Ctrl-C, or SIGTERM from a scheduler, systemd or `kill`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """The process was told to end; its exit code is the shell's for that signal, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def stoppable(told: Callable[[], str]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end a block in order: it is left as by an exception, then one line is printed.

    A second signal ends the process at once. A signal that somebody handles already (submitit, say) is left
    to them.

    Args:
        told: what the line says about the state that is left.

    Raises:
        Stopped: instead of whatever the block ends with once a signal has come.
    """
    owner, came = os.getpid(), []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a loader process: it ends quietly, this one tells
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        came.append(number)
        raise Stopped(number)

    with _handling(stop):
        try:
            yield
        except BaseException:  # loader processes got the signal, too, and their end is an error of its own
            if not came:
                raise
    if came:
        sys.stderr.write(f"roiseg: stopped by {signal.Signals(came[0]).name}: {told()}\n")
        sys.stderr.flush()
        raise Stopped(came[0])


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) == default:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, default in before.items():
            signal.signal(number, default)
