"""Processes that tests start: from a server without threads, never by a fork of the tests' own process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

CHILDREN = multiprocessing.get_context("forkserver")  # a fork of a process with threads may hang for ever
# imported once, by the server, instead of by every child
CHILDREN.set_forkserver_preload(["torch", "lightning", "pytest", "hypothesis", "cv2", "onnx"])
PATIENCE = 300  # seconds; a bound for waits that end as soon as what they wait for is there


def wait_until(there: Callable[[], object], alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until `there()` is true; fail after PATIENCE, or as soon as the process waited for is not `alive()`."""
    end = time.monotonic() + PATIENCE
    while not there():
        assert alive(), "the process ended first"
        assert time.monotonic() < end, f"not there after {PATIENCE} s"
        time.sleep(0.02)
