"""Processes that Lightning starts: a port from the first moment on, and time to end after a failure."""

import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from child_processes import CHILDREN, PATIENCE
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch.distributed import TCPStore

from roiseg.common.errors import UserError
from roiseg.config import processes
from roiseg.config.processes import Processes


def test_the_port_is_taken_before_anybody_is_told_of_it(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    group = Processes.__new__(Processes)
    group._strategy = SimpleNamespace(cluster_environment=LightningEnvironment())
    group._take_port()
    port = int(os.environ.pop("MASTER_PORT"))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    as_torch_does = {"is_master": True, "multi_tenant": True, "wait_for_workers": False}
    store = TCPStore("127.0.0.1", port, **as_torch_does)
    store.set("rank", "1")
    assert TCPStore("127.0.0.1", port).get("rank") == b"1"


def test_a_port_that_is_given_is_kept_and_named_if_it_is_taken(monkeypatch):
    group = Processes.__new__(Processes)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        group._take_port()
        assert os.environ["MASTER_PORT"] == str(port)
        group._alone = False
        group._strategy = SimpleNamespace(
            cluster_environment=LightningEnvironment(),
            setup_environment=None,
            launcher=SimpleNamespace(procs=[], launch=lambda _: TCPStore("127.0.0.1", port, is_master=True)),
        )
        with pytest.raises(UserError, match=f"MASTER_PORT={port} is in use"):
            group._meet()


def fail_elsewhere(patience, is_over, ends):
    """In a process of its own: another one, started by this, has failed."""
    over = threading.Event()
    if is_over:
        over.set()
    processes._PATIENCE = patience
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    lightning = _ChildProcessObserver(os.getpid(), [child], 0.1)
    lightning.start()
    processes._observe([child], over)
    lightning.join()
    child.wait()
    ends.put("lives")
    ends.close()
    ends.join_thread()  # it is told before the process may be killed
    if is_over:
        for thread in threading.enumerate():
            if "_kill_if_hanging" in thread.name:
                thread.join()
    elif not patience:
        signal.pause()  # hangs


@pytest.mark.parametrize(
    ("patience", "is_over", "code"), [(3600, False, 0), (0, False, -signal.SIGKILL), (0, True, 0)]
)
def test_the_first_process_outlives_the_failure_of_another_but_not_for_ever(patience, is_over, code):
    ends = CHILDREN.Queue()
    first = CHILDREN.Process(target=fail_elsewhere, args=(patience, is_over, ends))
    first.start()
    if code == 0:  # one that is killed may not get as far as to say so
        assert ends.get(timeout=PATIENCE) == "lives"
    first.join(PATIENCE)
    assert first.exitcode == code
