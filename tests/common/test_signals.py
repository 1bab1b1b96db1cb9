"""How a block, and every command, ends that is told to."""

import contextlib
import os
import signal
import time
import types

import pytest

from roiseg.common.files import atomic_path
from roiseg.common.signals import Stopped, stoppable
from roiseg.config.entry import command


def test_only_an_error_that_the_signal_has_caused_is_not_told(capsys):
    def block():
        with stoppable(str):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Stopped):
        block()
    assert "DataLoader" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="mine"), stoppable(str):
        raise ValueError("mine")


def test_a_deferred_signal_waits_for_its_moment(capsys):
    with pytest.raises(Stopped) as stopped, stoppable(lambda: "all is kept") as stop:  # noqa: PT012
        stop.deferred = True
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # at once: from the launcher, which got the same
        assert stop.came == signal.SIGTERM
        stop.now()
    assert stopped.value.code == 143
    first, second = capsys.readouterr().err.splitlines()
    assert first == "roiseg: SIGTERM: stopping after this step or validation (repeat to stop immediately)"
    assert second == "roiseg: stopped by SIGTERM: all is kept"


def test_a_second_signal_a_while_after_ends_at_once(monkeypatch):
    left = []
    with pytest.raises(Stopped), stoppable(str) as stop:  # noqa: PT012
        stop.deferred = True
        signal.raise_signal(signal.SIGINT)
        since = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: since + 2)
        signal.raise_signal(signal.SIGTERM)
        left.append(True)
    assert not left


def test_another_process_may_have_been_told(capsys):
    with pytest.raises(Stopped) as stopped, stoppable(str) as stop:  # noqa: PT012
        stop.quiet = True
        stop.now()
    assert stopped.value.code == 143
    assert not capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_somebody_handles_is_left_to_them_in_the_same_moment(number):
    came = []
    before = signal.signal(number, lambda *given: came.append(given[0]))
    try:
        with stoppable(str) as stop:
            signal.raise_signal(number)
            assert came == [number]
            stop.deferred = True
            signal.raise_signal(number)
            assert came == [number]
            stop.now()
            assert came == [number, number]
            assert stop.came is None  # and the block goes on
    finally:
        signal.signal(number, before)


def test_a_forked_process_leaves_the_first_to_its_owner(monkeypatch):
    with pytest.raises(Stopped), stoppable(str):  # noqa: PT012
        monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a data loader's process
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


BLOCKS = {
    "no file is left half-written": contextlib.nullcontext,
    "all is kept": lambda: stoppable(lambda: "all is kept"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("told", BLOCKS)
def test_one_line_and_nothing_half_written(run_main, tmp_path, number, told):
    before = signal.getsignal(number)

    @command("demo")
    def main(cfg):
        with BLOCKS[told](), atomic_path(tmp_path / "half.json") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    code, stderr = run_main(types.SimpleNamespace(__file__="demo", main=main))
    assert code == 128 + number
    assert stderr == f"roiseg: stopped by {signal.Signals(number).name}: {told}\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is before
