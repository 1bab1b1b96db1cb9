"""Checkpoints: the names that resume looks for, atomic writes, and a decision in a run's own only."""

import logging
import shutil

import lightning as L
import pytest
import tiny_run
import torch

from roiseg.callbacks.checkpoints import (
    AtomicCheckpointIO,
    EpochCheckpoint,
)
from roiseg.callbacks.decision import FitDecision
from roiseg.callbacks.history import History
from roiseg.inference.checkpoint import load_model
from roiseg.inference.checkpoint_folder import checkpoint_name, newest_checkpoint
from roiseg.inference.decision import Votes
from roiseg.training.resume import checkpoint_progress


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


class StopAt(L.Callback):
    """Ends the training after a step, as `trainer.max_time` does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step


# (options of the trainer, steps after which it is told to stop, epoch and step of the last checkpoint); 3 steps an epoch
ENDS = {
    "between validations": ({"max_epochs": 3}, 99, 3, 9),
    "at a step within an epoch": ({"max_epochs": -1, "max_steps": 5}, 99, 2, 5),
    "at the last step of an epoch": ({"max_epochs": -1, "max_steps": 3}, 99, 1, 3),
    "told to stop": ({"max_epochs": 9}, 4, 2, 4),
    "told to stop, but not yet": ({"max_epochs": 9, "min_epochs": 3}, 4, 3, 9),
}


@pytest.mark.parametrize("case", ENDS)
def test_where_training_ends_the_model_is_validated_and_saved(coco_set, onnx_file, tmp_path, case):
    options, stop, epoch, step = ENDS[case]
    checkpoints = EpochCheckpoint(tmp_path / "own", (64, 64), every_n_epochs=2)
    history = History()
    _, module, _, _ = tiny_run.fit(
        coco_set,
        onnx_file,
        tmp_path,
        [history, StopAt(stop), checkpoints],
        check_val_every_n_epoch=2,
        **options,
    )
    last = newest_checkpoint(tmp_path / "own")
    content = torch.load(last, weights_only=True)
    assert (content["epoch"] + 1, content["global_step"]) == (epoch, step)
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in module.state_dict().items())
    row = history.epochs[-1]
    assert row["epoch"] == epoch
    assert last.name == checkpoint_name(epoch, (64, 64), row["val/miou"])
    assert checkpoint_progress(content) == ((epoch, 0) if step == 3 * epoch else (epoch - 1, step % 3))


def test_without_validation_nothing_is_saved_and_training_ends(coco_set, onnx_file, tmp_path):
    checkpoints = EpochCheckpoint(tmp_path / "own", (64, 64), every_n_epochs=2)
    trainer, *_ = tiny_run.fit(
        coco_set, onnx_file, tmp_path, [checkpoints], limit_val_batches=0, max_epochs=3
    )
    assert trainer.global_step == 9


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
