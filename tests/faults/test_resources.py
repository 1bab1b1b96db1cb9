"""A few of the cases; `python -m tools.chaos.full_disk` and `python -m tools.chaos.resources` are the long forms."""

from __future__ import annotations

import re

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow

FEW = [
    "loader process killed in epoch 2", "shared memory of 64 kB", "no shared memory, no loader processes",
    "cache folder read-only",
]  # fmt: skip


def run(*arguments):
    done = run_command(arguments, timeout=590)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_training_that_lacks_something_ends_in_a_line_and_goes_on():
    assert f"cases: {len(FEW)}, " in run("tools.chaos.resources", *FEW)


def test_a_full_disk_ends_commands_in_a_line_and_leaves_nothing_half_written():
    told = run("tools.chaos.full_disk", "2", "preview", "predict coco")
    cases, one_line, *_, wrong = re.search(r"│ all +│" + r" +(\d+) │" * 6, told).groups()
    assert cases == one_line == "5"
    assert wrong == "0"
