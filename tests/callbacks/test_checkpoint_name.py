from __future__ import annotations

import re

import pytest
import torch

from roiseg.callbacks.checkpoints import EpochCheckpoint, checkpoint_name


@pytest.mark.parametrize(
    ("miou", "digits"),
    [(0.8551, "8551"), (1.0, "10000"), (0.0, "0000"), (0.00004, "0000"), (0.00006, "0001"), (0.0512, "0512"),
     (0.99996, "10000"), (0.85514, "8551"), (0.85516, "8552")],
)  # fmt: skip
def test_miou_is_four_digits_rounded(miou, digits):
    assert checkpoint_name(1, (640, 640), miou) == f"checkpoint_epoch_0001_640x640_{digits}.pth"


@pytest.mark.parametrize("as_logged", [float, lambda v: float(torch.tensor(v, dtype=torch.float32))])
def test_every_value_of_four_decimals_is_named_exactly(as_logged):
    for number in range(10_001):
        name = checkpoint_name(1, (64, 64), as_logged(number / 10_000))
        assert name == f"checkpoint_epoch_0001_64x64_{number:04d}.pth"


@pytest.mark.parametrize(("epoch", "text"), [(1, "0001"), (12, "0012"), (9999, "9999"), (10000, "10000")])
def test_epoch_has_at_least_four_digits(epoch, text):
    assert checkpoint_name(epoch, (64, 64), 0.5) == f"checkpoint_epoch_{text}_64x64_5000.pth"


def test_height_comes_before_width():
    assert checkpoint_name(1, (480, 640), 0.5) == "checkpoint_epoch_0001_480x640_5000.pth"
    assert checkpoint_name(1, [480, 640], 0.5) == "checkpoint_epoch_0001_480x640_5000.pth"


def test_names_sort_by_epoch():
    names = [checkpoint_name(epoch, (64, 64), 1 - epoch / 200) for epoch in range(1, 120)]
    assert names == sorted(names)


def test_the_callback_counts_epochs_from_1_and_takes_the_monitored_metric(tmp_path):
    callback = EpochCheckpoint(tmp_path, (480, 640), monitor="val/target_iou")
    metrics = {
        "epoch": torch.tensor(0), "step": torch.tensor(30), "val/miou": torch.tensor(0.1),
        "val/target_iou": torch.tensor(0.8551),
    }  # fmt: skip
    path = callback.format_checkpoint_name(metrics)
    assert path == str(tmp_path / "checkpoint_epoch_0001_480x640_8551.pth")


def test_names_are_those_a_resumed_run_looks_for(tmp_path):
    from roiseg.inference.checkpoint import newest_checkpoint

    for epoch, miou in ((1, 0.0), (2, 1.0), (12345, 0.5)):
        path = tmp_path / checkpoint_name(epoch, (480, 640), miou)
        path.touch()
        assert newest_checkpoint(tmp_path) == path
        assert re.fullmatch(r"checkpoint_epoch_\d{4,}_480x640_\d{4,5}\.pth", path.name)
