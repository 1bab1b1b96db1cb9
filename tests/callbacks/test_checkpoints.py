"""Checkpoints: the names that resume looks for, atomic writes, and a decision in a run's own only."""

import logging
import shutil

import pytest
import tiny_run
import torch

from roiseg.callbacks.checkpoints import (
    AtomicCheckpointIO,
    EpochCheckpoint,
)
from roiseg.callbacks.decision import FitDecision
from roiseg.inference.checkpoint import load_model
from roiseg.inference.checkpoint_folder import checkpoint_name, newest_checkpoint
from roiseg.inference.decision import Votes


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


def test_the_checkpoint_of_another_run_is_never_changed(coco_set, onnx_file, tmp_path, caplog):
    checkpoints = EpochCheckpoint(tmp_path / "own", (64, 64), monitor="val/miou")
    given = {"decision": Votes(), "max_epochs": 1}
    trainer, module, _, _ = tiny_run.fit(coco_set, onnx_file, tmp_path, [checkpoints], **given)
    own, other = checkpoints.best_model_path, tmp_path / "other/best.pth"
    other.parent.mkdir()
    shutil.copy(own, other)
    before = other.read_bytes()

    checkpoints.best_model_path = str(other)  # as after a resume, while no epoch was better
    with caplog.at_level(logging.WARNING):
        FitDecision().on_fit_end(trainer, module)
    assert str(other) in caplog.text
    assert other.read_bytes() == before
    assert module.decision == Votes()

    checkpoints.best_model_path = own
    FitDecision().on_fit_end(trainer, module)
    assert not module.decision.unfitted
    assert load_model(own).decision == module.decision

    # a run that tests it again, in a folder of its own, decides as the run that fitted it
    shutil.copy(own, other)
    fitted, before = module.decision, other.read_bytes()
    checkpoints.best_model_path = str(other)
    for decision, found in ((Votes(), fitted), (Votes(exclusive=True), Votes(exclusive=True))):
        module.decision = decision
        FitDecision().on_fit_end(trainer, module)
        assert module.decision == found
        assert other.read_bytes() == before
