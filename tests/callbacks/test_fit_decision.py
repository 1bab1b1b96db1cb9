"""The decision that is fitted when training ends."""

import logging
import shutil

import tiny_run

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.callbacks.decision import FitDecision
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import Votes


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
