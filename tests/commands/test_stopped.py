"""Ctrl-C and SIGTERM end a training in order, wherever it is."""

from __future__ import annotations

import os
import signal

import pytest

import roiseg.train
from roiseg.inference.checkpoint import newest_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_training_that_is_told_to_end_says_what_is_kept(
    tiny_overrides, start_train, tmp_path, number, workers
):
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


def test_a_rate_that_blows_up_ends_the_run_with_one_line(tiny_overrides, run_main, tmp_path):
    code, stderr = run_main(
        roiseg.train, *tiny_overrides, "optimizer=sgd", "optimizer.lr=1e30", "scheduler=constant",
        "trainer.gradient_clip_val=null", "~callbacks.overlays", f"paths.checkpoint_dir={tmp_path}/ckpt",
    )  # fmt: skip
    assert code == 2
    line = stderr.strip().splitlines()[-1]
    assert line.startswith("roiseg: error: epoch 1, step ")
    assert "lower optimizer.lr (now 1e+30)" in line and line.endswith("there is no checkpoint yet")
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("ckpt/*.pth"))
