"""Every command ends in order when it is told to."""

from __future__ import annotations

import signal
import types

import pytest
from commands.conftest import run_main  # noqa: F401

from roiseg.common.files import atomic_path
from roiseg.common.signals import stoppable
from roiseg.config.entry import command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inner", [False, True])
def test_one_line_and_nothing_half_written(run_main, tmp_path, number, inner):  # noqa: F811
    before = signal.getsignal(number)

    def write(cfg):
        with atomic_path(tmp_path / "half.json") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    def task(cfg):
        if not inner:
            return write(cfg)
        with stoppable(lambda: "all is kept"):
            return write(cfg)

    program = types.SimpleNamespace(__file__="demo", main=command("demo")(task))
    code, stderr = run_main(program)
    assert code == 128 + number
    told = "all is kept" if inner else "no file is left half-written"
    assert stderr == f"roiseg: stopped by {signal.Signals(number).name}: {told}\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is before
