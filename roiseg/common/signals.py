"""End a run cleanly on Ctrl-C, or on SIGTERM from a scheduler, systemd or `kill`."""

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
    """The process was terminated by a signal; the exit code is 130 or 143, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


_DEFAULTS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_USER = (signal.SIGUSR1, signal.SIGUSR2) if hasattr(signal, "SIGUSR1") else ()
_DUPLICATE = 1.0  # seconds: a launcher may forward a signal its process group has already received


class Stop:
    """Records a received signal, and ends a block because of it.

    SIGINT and SIGTERM end the block. A signal that already has a handler (submitit uses SIGUSR2 to requeue
    its job) is forwarded to that handler at the same point.

    Attributes:
        came: the received signal, if any.
        deferred: the program checks `came` at a suitable point and calls `now`. Until then only a second
            signal has an effect.
        quiet: another process informs the user.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.deferred = False
        self.quiet = False
        self._owner = os.getpid()
        self._since = 0.0
        self._before: dict[int, Any] = {}  # handlers, of the signals that are handled here

    def now(self) -> None:
        """Act on the signal; return if another handler takes it and lets the run continue.

        Raises:
            Stopped: the block ends.
        """
        number = self.came or signal.SIGTERM  # another process may have received it
        if handler := self._elsewhere(number):
            self.came = None
            handler(number, None)
            return
        self.came, self.deferred = number, False
        raise Stopped(number)

    def print(self, text: str) -> None:
        """Print a line to stderr, unless quiet."""
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
        """Restore the handlers, if a library has replaced them."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _elsewhere(self, number: int) -> Callable[[int, FrameType | None], Any] | None:
        """Return another handler of a signal, except that of an enclosing block."""
        handler = self._before.get(number)
        if isinstance(around := getattr(handler, "__self__", None), Stop):
            return around._elsewhere(number)
        return None if handler in (None, _DEFAULTS.get(number)) else handler

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a loader process, which its owner terminates
            if self.came is not None:
                raise KeyboardInterrupt
            self.came = number
        elif self.came is None and self.deferred:
            self.came, self._since = number, time.monotonic()
            if self._elsewhere(number) is None:
                name = signal.Signals(number).name
                self.print(f"{name}: stopping after this step or validation (repeat to stop immediately)")
        elif not self.deferred or time.monotonic() - self._since > _DUPLICATE:
            self._at_once(number, frame)

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        if handler := self._elsewhere(number):
            handler(number, frame)
        else:
            self.came = number
            signal.signal(number, signal.SIG_DFL)
            raise Stopped(number)


@contextmanager
def stoppable(message: Callable[[], str]) -> Iterator[Stop]:
    """Let SIGINT and SIGTERM end a block like an exception, then print one line.

    A second signal terminates the process immediately. Of nested blocks, the inner one prints.

    Args:
        message: describes the state that is left, for the line.

    Raises:
        Stopped: instead of the block's own error, once a signal was received.
    """
    stop = Stop()
    with stop.handling():
        try:
            yield stop
        except BaseException:  # loader processes receive the signal too, and their end is an error
            if stop.came is None:
                raise
    if stop.came is not None:
        stop.print(f"stopped by {signal.Signals(stop.came).name}: {message()}")
        raise Stopped(stop.came)
