"""A run of some hundred steps; `python -m tools.chaos.long_run` is the long form, which judges memory, too."""

from __future__ import annotations

import sys

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="what processes hold is read from /proc")
def test_handles_threads_processes_and_outputs_do_not_grow():
    done = run_command(["tools.chaos.long_run", "300"], timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GROWS" not in done.stdout
    for what in ("file handles", "threads", "child processes", "own memory"):
        assert done.stdout.count(f"\n{what}: ") == 4, done.stdout  # training, images, video, page
    assert "\ntensorboard: 2 files" in done.stdout
