"""Names of checkpoints, and that a checkpoint is all there or not at all."""

import pytest
import torch

from roiseg.callbacks.checkpoints import (
    AtomicCheckpointIO,
    EpochCheckpoint,
    checkpoint_name,
)
from roiseg.inference.checkpoint import newest_checkpoint


@pytest.mark.parametrize("as_logged", [float, lambda v: float(torch.tensor(v, dtype=torch.float32))])
def test_every_value_of_four_decimals_is_named_exactly(as_logged):
    for number in range(10_001):
        name = checkpoint_name(1, (480, 640), as_logged(number / 10_000))
        assert name == f"checkpoint_epoch_0001_480x640_{number:04d}.pth"
    for miou, digits in ((0.00004, "0000"), (0.00006, "0001"), (0.99996, "10000"), (0.85516, "8552")):
        assert checkpoint_name(10000, [64, 64], miou) == f"checkpoint_epoch_10000_64x64_{digits}.pth"


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
