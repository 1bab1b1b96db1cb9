"""The cases that hurt most, briefly; `python -m tools.chaos.NAME` is the long form of each."""

import re
import sys

import pytest
from helpers import run_command

pytestmark = pytest.mark.slow

of_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
FEW = [
    "loader process killed in epoch 2", "shared memory of 64 kB", "no shared memory, no loader processes",
    "cache folder read-only",
]  # fmt: skip


def run(name, *arguments):
    """What a run of `tools.chaos.NAME` prints."""
    done = run_command([f"tools.chaos.{name}", *arguments], env={"COLUMNS": "200"}, timeout=590)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_processes_at_once_lose_nothing_and_do_not_hang():
    cases = ["four killed", "evicting each other", "going on, killed"]
    rows = re.findall(r"│ ([\w, ]+?) +│" + r" +(\d+) │" * 4, run("concurrency", "1", "1", *cases))
    told = {name: tuple(map(int, numbers)) for name, *numbers in rows}
    assert list(told) == cases
    assert all(processes == 8 and not problems for processes, _, _, problems in told.values())
    assert told["four killed"][1] <= 4
    assert told["evicting each other"][2] >= 8 * 15  # results that equal those of one process alone


@of_linux
def test_whether_a_loader_or_a_process_of_two_is_killed_nothing_is_lost_and_nobody_is_left():
    printed = run("group_kills", "2")
    rows = [line for line in printed.splitlines() if line.startswith(("│ loader", "│ ddp second"))]
    assert len(rows) == 2
    assert all(row.endswith("│    0 │            0 │           0 │                   0 │") for row in rows)


def test_a_killed_training_loses_nothing():
    told = dict(re.findall(r"│ ([\w -]+?) +│ +(\d+) │", run("kills", "5", "1")))
    assert told["kills"] == "5"
    assert int(told["results compared"]) >= 20
    assert told["half-written files"] == told["lost epochs"] == told["results that differ"] == "0"


@of_linux
def test_handles_threads_processes_and_outputs_do_not_grow():
    printed = run("long_run", "300")
    assert "GROWS" not in printed
    for what in ("file handles", "threads", "child processes", "own memory"):
        assert printed.count(f"\n{what}: ") == 4, printed  # training, images, video, page
    assert "\ntensorboard: 2 files" in printed


def test_a_training_that_lacks_something_ends_in_a_line_and_goes_on():
    assert f"cases: {len(FEW)}, " in run("resources", *FEW)


def test_a_full_disk_ends_commands_in_a_line_and_leaves_nothing_half_written():
    told = run("full_disk", "2", "preview", "predict coco")
    cases, one_line, *_, wrong = re.search(r"│ all +│" + r" +(\d+) │" * 6, told).groups()
    assert cases == one_line == "6"
    assert wrong == "0"
