"""How a run ends that is told to: Ctrl-C, or SIGTERM from a scheduler, systemd or `kill`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """The process was told to end; its exit code is the shell's for that signal, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_USER = (signal.SIGUSR1, signal.SIGUSR2) if hasattr(signal, "SIGUSR1") else ()
_ONE = 1.0  # seconds: a launcher passes on what its whole process group has got already


class Stop:
    """What has come of signals, and when a block is left because of it.

    SIGINT and SIGTERM end the block. A signal that somebody handles already (submitit takes SIGUSR2 to queue
    its job again) is handed on to them instead, in the same moment.

    Attributes:
        came: the signal that has come, if any.
        deferred: somebody looks at `came` in a good moment soon and calls `now`. Until then only a second
            signal does anything.
        quiet: another process tells the user.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.deferred = False
        self.quiet = False
        self._owner = os.getpid()
        self._since = 0.0
        self._before: dict[int, Any] = {}  # handlers, of the signals that are handled here

    def now(self) -> None:
        """Do what the signal is for; returns where somebody else handles it and has nothing against going on.

        Raises:
            Stopped: it ends the block.
        """
        number = self.came or signal.SIGTERM  # another process may have been told
        if handler := self._elsewhere(number):
            self.came = None
            handler(number, None)
            return
        self.came, self.deferred = number, False
        raise Stopped(number)

    def tell(self, text: str) -> None:
        """Write a line about it, unless quiet."""
        if not self.quiet:
            sys.stderr.write(f"roiseg: {text}\n")
            sys.stderr.flush()

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle signals within a block."""
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in (*_DEFAULTS, *_USER)}
            self._before = {
                number: handler
                for number, handler in found.items()
                if callable(handler) or (number in _DEFAULTS and handler == signal.SIG_DFL)
            }
        self.take_back()
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def take_back(self) -> None:
        """Handle them alone again, where a library has put itself in between."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _elsewhere(self, number: int) -> Callable[[int, FrameType | None], Any] | None:
        """Whoever else handles a signal; not a block around this one."""
        handler = self._before.get(number)
        if isinstance(around := getattr(handler, "__self__", None), Stop):
            return around._elsewhere(number)
        return None if handler in (None, _DEFAULTS.get(number)) else handler

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a loader process, which its owner ends once it needs it no longer
            if self.came is not None:
                raise KeyboardInterrupt
            self.came = number
        elif self.came is None and self.deferred:
            self.came, self._since = number, time.monotonic()
            if self._elsewhere(number) is None:
                name = signal.Signals(number).name
                self.tell(f"{name}: ending after this step, or this validation (once more: at once)")
        elif not self.deferred or time.monotonic() - self._since > _ONE:
            self._at_once(number, frame)

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        if handler := self._elsewhere(number):
            handler(number, frame)
        else:
            self.came = number
            signal.signal(number, signal.SIG_DFL)
            raise Stopped(number)


@contextmanager
def stoppable(told: Callable[[], str]) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM end a block in order: it is left as by an exception, then one line is printed.

    A second signal ends the process at once. Of two blocks, one within the other, the inner one prints.

    Args:
        told: what the line says about the state that is left.

    Raises:
        Stopped: instead of whatever the block ends with once a signal has come.
    """
    stop = Stop()
    with stop.handling():
        try:
            yield stop
        except BaseException:  # loader processes got the signal, too, and their end is an error of its own
            if stop.came is None:
                raise
    if stop.came is not None:
        stop.tell(f"stopped by {signal.Signals(stop.came).name}: {told()}")
        raise Stopped(stop.came)
