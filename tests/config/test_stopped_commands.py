"""Every command ends in order when it is told to."""

import contextlib
import signal
import types

import pytest

from roiseg.common.files import atomic_path
from roiseg.common.signals import stoppable
from roiseg.config.entry import command

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
