"""Pieces of the measurement of several processes."""

from __future__ import annotations

import os

import pytest

from benchmarks import ddp

pytestmark = pytest.mark.slow


def test_epochs_are_timed_from_checkpoint_to_checkpoint(tmp_path):
    (tmp_path / "ckpt").mkdir()
    for number, time in enumerate((10.0, 12.0, 15.0)):
        path = tmp_path / "ckpt" / f"checkpoint_epoch_{number:04d}_64x64_0000.pth"
        path.touch()
        os.utime(path, (time, time))
    assert ddp.epoch_seconds(tmp_path) == [2.0, 3.0]


def test_runs_are_compared_epoch_by_epoch():
    first = [
        {"epoch": 1, "val/miou": 0.5, "train/loss": 1.0},
        {"epoch": 2, "val/miou": 0.6, "train/loss": 0.5},
    ]
    second = [
        {"epoch": 1, "val/miou": 0.5, "train/loss": 3.0},
        {"epoch": 2, "val/miou": 0.5, "train/loss": 0.5},
    ]
    assert ddp.furthest(first, second, "val/miou") == pytest.approx(0.1)
    assert ddp.furthest(first, second, "train/loss") == 2.0
