"""Names of checkpoints; the best and the newest of a folder."""

import json
import os

import pytest
import torch
from helpers import user_error

from roiseg.common.outputs import own
from roiseg.inference.checkpoint import load_model
from roiseg.inference.checkpoint_folder import (
    checkpoint_file,
    checkpoint_name,
    newest_checkpoint,
    remove_outdated,
)


@pytest.mark.parametrize("as_logged", [float, lambda v: float(torch.tensor(v, dtype=torch.float32))])
def test_every_value_of_four_decimals_is_named_exactly(as_logged):
    for number in range(10_001):
        name = checkpoint_name(1, (480, 640), as_logged(number / 10_000))
        assert name == f"checkpoint_epoch_0001_480x640_{number:04d}.pth"
    for miou, digits in ((0.00004, "0000"), (0.00006, "0001"), (0.99996, "10000"), (0.85516, "8552")):
        assert checkpoint_name(10000, [64, 64], miou) == f"checkpoint_epoch_10000_64x64_{digits}.pth"


@pytest.mark.parametrize(("names", "best"), [
    (["0001_64x64_5000", "0002_64x64_7012", "0003_64x64_6999"], "0002_64x64_7012"),
    (["0009_64x64_9999", "0010_64x64_10000"], "0010_64x64_10000"),
    (["0002_64x64_7000", "0001_64x64_7000"], "0001_64x64_7000"),  # the first of equals
])  # fmt: skip
def test_folder_of_checkpoints_stands_for_the_best(names, best, tmp_path):
    for name in names:
        (tmp_path / f"checkpoint_epoch_{name}.pth").touch()
    (tmp_path / "checkpoint_in_epoch_0011.pth").touch()
    (tmp_path / "mine_9999.pth").touch()
    assert checkpoint_file(tmp_path).name == f"checkpoint_epoch_{best}.pth"


def test_folder_of_a_run_stands_for_the_checkpoint_that_its_summary_names(checkpoint, tmp_path, caplog):
    (tmp_path / "summary.json").write_text(json.dumps({"best_checkpoint": str(checkpoint)}))
    with caplog.at_level("INFO"):
        assert load_model(tmp_path).path == checkpoint
    assert f"checkpoint {tmp_path}: {checkpoint}" in caplog.text


@pytest.mark.parametrize("summary", [None, "[]", '{"best_checkpoint": null}'])
def test_folder_without_a_checkpoint_is_refused(summary, tmp_path):
    if summary:
        (tmp_path / "summary.json").write_text(summary)
    assert f"folder {tmp_path} has no checkpoint" in user_error(checkpoint_file, tmp_path)


def test_newest_is_the_highest_epoch_by_number(tmp_path):
    names = [
        "checkpoint_epoch_0009_64x64_9999.pth",
        "checkpoint_epoch_0010_64x64_0001.pth",
        "checkpoint_epoch_9999_480x640_10000.pth",
        "checkpoint_epoch_10000_64x64_0500.pth",
    ]
    for name in names:
        (tmp_path / name).touch()
        assert newest_checkpoint(tmp_path).name == name


def test_what_was_saved_within_an_epoch_is_newer_than_the_epoch_before_and_older_than_its_own(tmp_path):
    names = [
        "checkpoint_in_epoch_0001.pth", "checkpoint_epoch_0001_64x64_9999.pth", "checkpoint_in_epoch_0002.pth",
        "checkpoint_epoch_0002_64x64_0001.pth", "checkpoint_in_epoch_0004.pth",
    ]  # fmt: skip
    own(tmp_path)
    for position, name in enumerate(names):
        (tmp_path / name).touch()
        assert newest_checkpoint(tmp_path).name == name
        remove_outdated(tmp_path)
        in_epoch = [path.name for path in tmp_path.glob("*in_epoch*")]
        assert in_epoch == ([name] if "in_epoch" in name else [])
        assert len(list(tmp_path.glob("checkpoint_epoch*"))) == (position + 1) // 2


def test_of_one_epoch_the_checkpoint_that_was_written_last_is_the_newest(tmp_path):
    for time, miou in enumerate((0.5, 0.3, 0.4)):  # training ended within the epoch, and was resumed
        path = tmp_path / checkpoint_name(2, (64, 64), miou)
        path.touch()
        os.utime(path, (time, time))
        assert newest_checkpoint(tmp_path) == path


@pytest.mark.parametrize("name", [
    "last.pth", "checkpoint_epoch_0001_64x64_0500.onnx", "checkpoint_epoch_0001_64x64_0500.pth.tmp",
    ".checkpoint_epoch_0001_64x64_0500-x.pth", "checkpoint_epoch_1_64x64_0500.pth",
])  # fmt: skip
def test_newest_sees_only_checkpoints(name, tmp_path):
    (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
