"""Folders of runs: each its own, and one process at a time goes on in them."""

from __future__ import annotations

import multiprocessing

import pytest

from roiseg.cli.folders import claim, occupied
from roiseg.common.errors import UserError

FORK = multiprocessing.get_context("fork")


def claim_many(folder, start, claimed):
    start.wait(60)
    for number in range(20):
        claimed.put(claim(folder / f"run{number}"))


def test_processes_that_claim_one_folder_at_once_get_different_ones(tmp_path):
    start, claimed = FORK.Barrier(4), FORK.Queue()
    processes = [FORK.Process(target=claim_many, args=(tmp_path, start, claimed)) for _ in range(4)]
    for process in processes:
        process.start()
    folders = [claimed.get(timeout=60) for _ in range(80)]
    for process in processes:
        process.join()
    assert len(set(folders)) == 80
    assert {path.name for path in folders} == {
        f"run{n}{s}" for n in range(20) for s in ("", "-2", "-3", "-4")
    }


def occupy(folder, has, leave):
    with occupied(folder):
        has.set()
        leave.wait(60)


def test_another_process_is_kept_out_with_one_line_until_the_run_ends(tmp_path):
    folder, has, leave = claim(tmp_path / "run"), FORK.Event(), FORK.Event()
    process = FORK.Process(target=occupy, args=(folder, has, leave))
    process.start()
    assert has.wait(60)
    with (
        pytest.raises(UserError, match=rf"run in .*run is still going on \(process {process.pid} on"),
        occupied(folder),
    ):
        pass  # fmt: skip
    leave.set()
    process.join()
    with occupied(folder):
        assert claim(tmp_path / "run").name == "run-2"


def test_an_error_within_passes_through(tmp_path):
    with pytest.raises(OSError, match="of the block"), occupied(tmp_path):
        raise OSError("of the block")
