"""Folders of runs: each its own, and one process at a time goes on in them."""

import pytest
from child_processes import CHILDREN, PATIENCE

from roiseg.common.errors import UserError
from roiseg.config.run_dir import create_unique_dir, lock_run_dir


def claim_many(folder, start, claimed):
    start.wait(PATIENCE)
    for number in range(20):
        claimed.put(create_unique_dir(folder / f"run{number}"))


def test_processes_that_claim_one_folder_at_once_get_different_ones(tmp_path):
    start, claimed = CHILDREN.Barrier(2), CHILDREN.Queue()
    processes = [CHILDREN.Process(target=claim_many, args=(tmp_path, start, claimed)) for _ in range(2)]
    for process in processes:
        process.start()
    folders = {claimed.get(timeout=PATIENCE).name for _ in range(40)}
    for process in processes:
        process.join()
    assert folders == {f"run{n}{s}" for n in range(20) for s in ("", "-2")}


def occupy(folder, has, leave):
    with lock_run_dir(folder):
        has.set()
        leave.wait(PATIENCE)


def test_another_process_is_kept_out_with_one_line_until_the_run_ends(tmp_path):
    folder, has, leave = create_unique_dir(tmp_path / "run"), CHILDREN.Event(), CHILDREN.Event()
    process = CHILDREN.Process(target=occupy, args=(folder, has, leave))
    process.start()
    assert has.wait(PATIENCE)
    held = rf"run in .*run is still running \(process {process.pid} on"
    with pytest.raises(UserError, match=held), lock_run_dir(folder):
        pass
    leave.set()
    process.join()
    with lock_run_dir(folder):
        assert create_unique_dir(tmp_path / "run").name == "run-2"
