"""A lock keeps other processes out as long as its holder lives, and no longer."""

import errno
import os
import signal

import pytest
from child_processes import CHILDREN, PATIENCE

from roiseg.common import locks
from roiseg.common.locks import LockedError, locked


def started(target, *args):
    process = CHILDREN.Process(target=target, args=args)
    process.start()
    return process


def hold(path, holds):
    with locked(path, wait=True):
        holds.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/lock until it is killed."""
    holds = CHILDREN.Event()
    process = started(hold, tmp_path / "lock", holds)
    assert holds.wait(PATIENCE)
    yield process
    process.kill()
    process.join()


def test_another_process_is_named_and_a_killed_one_locks_nobody_out(holder, tmp_path):
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked(tmp_path / "lock", wait=False):
        pass
    holder.kill()
    holder.join()
    with locked(tmp_path / "lock", wait=False):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def wait_for(path, noted):
    with locked(path, wait=True):
        noted.put(os.getpid())


def test_who_waits_goes_on_when_the_holder_is_killed(holder, tmp_path):
    noted = CHILDREN.Queue()
    waiting = [started(wait_for, tmp_path / "lock", noted) for _ in range(3)]
    assert noted.empty()
    holder.kill()
    assert {noted.get(timeout=PATIENCE) for _ in waiting} == {process.pid for process in waiting}
    for process in waiting:
        process.join()


def add(path, start):
    start.wait(PATIENCE)
    for _ in range(20):
        with locked(path / "lock", wait=True):
            number = int((path / "number").read_text())
            (path / "number").write_text(str(number + 1))


def test_one_at_a_time_and_the_file_of_the_lock_is_gone_afterwards(tmp_path):
    (tmp_path / "number").write_text("0")
    start = CHILDREN.Barrier(3)
    for process in [started(add, tmp_path, start) for _ in range(3)]:
        process.join()
    assert (tmp_path / "number").read_text() == "60"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def hold_with_a_child(path, holds, child):
    with locked(path, wait=True):
        if os.fork() == 0:  # of a process without threads
            child.value = os.getpid()  # told by the child: by now it has closed the lock that it inherited
            holds.set()
        signal.pause()


def test_a_loader_process_that_outlives_the_holder_does_not_hold(tmp_path):
    holds, child = CHILDREN.Event(), CHILDREN.Value("i")
    process = started(hold_with_a_child, tmp_path / "lock", holds, child)
    assert holds.wait(PATIENCE)
    process.kill()
    process.join()
    try:
        os.kill(child.value, 0)  # it lives
        with locked(tmp_path / "lock", wait=False):
            pass
    finally:
        os.kill(child.value, signal.SIGKILL)


def test_it_is_let_go_after_the_block_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "below/lock", wait=False):
            raise ZeroDivisionError
    noted = CHILDREN.Queue()
    process = started(wait_for, tmp_path / "below/lock", noted)
    assert noted.get(timeout=PATIENCE) == process.pid
    process.join()


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def none(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", none)
    with locked(tmp_path / "lock", wait=False), locked(tmp_path / "lock", wait=True):
        pass
