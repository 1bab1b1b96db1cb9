"""Ctrl-C and SIGTERM end a training in order, wherever it is."""

import os
import signal

import pytest

from roiseg.inference.checkpoint import read_checkpoint
from roiseg.inference.checkpoint_folder import newest_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_terminated_training_says_what_is_kept(tiny_overrides, start_train, tmp_path, number, workers):
    arguments = [
        *tiny_overrides, "trainer.max_epochs=1000", f"data.num_workers={workers}", "~callbacks.overlays",
        f"paths.output_dir={tmp_path}/out", f"paths.checkpoint_dir={tmp_path}/ckpt",
    ]  # fmt: skip
    process = start_train(arguments)
    os.killpg(process.pid, number)  # as a terminal does, and SLURM: loader processes get it, too
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    last = newest_checkpoint(tmp_path / "ckpt")
    assert stderr.strip().splitlines()[-1] == (
        f"roiseg: stopped by {number.name}: the last good checkpoint is {last}, where ckpt_path=last resumes"
    )
    assert "Traceback" not in stderr
    read_checkpoint(last)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".roiseg_run"]
    assert not (tmp_path / "out/summary.json").exists()
