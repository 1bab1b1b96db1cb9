"""Checkpoints have the names that resume looks for, and their writes are atomic."""

import pytest
import torch

from roiseg.callbacks.checkpoints import (
    AtomicCheckpointIO,
    EpochCheckpoint,
)
from roiseg.inference.checkpoint_folder import checkpoint_name, newest_checkpoint


def test_names_are_those_a_resumed_run_looks_for_and_count_epochs_from_1(tmp_path):
    for epoch, miou in ((1, 0.0), (2, 1.0), (12345, 0.5)):
        path = tmp_path / checkpoint_name(epoch, (480, 640), miou)
        path.touch()
        assert newest_checkpoint(tmp_path) == path
    callback = EpochCheckpoint(tmp_path, (480, 640), monitor="val/target_iou")
    metrics = {"epoch": 0, "step": 30, "val/miou": 0.1, "val/target_iou": 0.8551}
    path = callback.format_checkpoint_name({name: torch.tensor(value) for name, value in metrics.items()})
    assert path == str(tmp_path / "checkpoint_epoch_0001_480x640_8551.pth")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "one.pth"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"epoch": lambda: 2}, path)
    assert torch.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["one.pth"]
