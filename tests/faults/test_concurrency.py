"""The cases that hurt most; `python -m tools.chaos.concurrency` is the long form."""

from __future__ import annotations

import re

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow


def test_processes_at_once_lose_nothing_and_do_not_hang():
    cases = ["four killed", "evicting each other", "going on, killed"]
    done = run_command(["tools.chaos.concurrency", "1", "1", *cases], env={"COLUMNS": "200"}, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"│ ([\w, ]+?) +│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │", done.stdout)
    told = {name: tuple(map(int, numbers)) for name, *numbers in rows}
    assert list(told) == cases
    assert all(processes == 8 and not problems for processes, _, _, problems in told.values())
    assert told["four killed"][1] <= 4
    assert told["evicting each other"][2] >= 8 * 15  # results that equal those of one process alone
