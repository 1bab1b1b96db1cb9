"""A loader killed, and the second of two processes; `python -m tools.chaos.group_kills 10` is the long form."""

from __future__ import annotations

import sys

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_whoever_is_killed_nothing_is_lost_and_nobody_is_left():
    done = run_command(["tools.chaos.group_kills", "2"], env={"COLUMNS": "150"}, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("│ loader", "│ ddp second"))]
    assert len(rows) == 2
    assert all(row.endswith("│    0 │            0 │           0 │                   0 │") for row in rows)
