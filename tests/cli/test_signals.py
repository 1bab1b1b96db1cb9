"""How a block ends that is told to."""

from __future__ import annotations

import signal

import pytest

from roiseg.cli.signals import Stopped, stoppable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_block_is_left_in_order_and_the_process_as_it_was(number, capsys):
    before, left = signal.getsignal(number), []

    def block():
        with stoppable(lambda: "all is kept"):
            try:
                signal.raise_signal(number)
            finally:
                left.append(True)

    with pytest.raises(Stopped) as stopped:
        block()
    assert left
    assert stopped.value.code == 128 + number
    assert capsys.readouterr().err == f"roiseg: stopped by {signal.Signals(number).name}: all is kept\n"
    assert signal.getsignal(number) == before


def test_an_error_that_the_signal_has_caused_elsewhere_is_not_told(capsys):
    def block():
        with stoppable(str):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Stopped):
        block()
    assert "DataLoader" not in capsys.readouterr().err


def test_errors_without_a_signal_pass_through():
    with pytest.raises(ValueError, match="mine"), stoppable(str):
        raise ValueError("mine")


def test_a_signal_that_somebody_handles_is_left_to_them():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        with stoppable(str):
            signal.raise_signal(signal.SIGTERM)
        assert came
    finally:
        signal.signal(signal.SIGTERM, before)
