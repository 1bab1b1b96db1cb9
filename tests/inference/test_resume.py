"""What a run may go on from, and where it is found."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from helpers import user_error
from tiny_run import tiny_config, tiny_extractor

from roiseg.inference.checkpoint import describe
from roiseg.inference.resume import check_resumable, find_last, identity

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def description(onnx_file):
    return describe(tiny_config(onnx_file), tiny_extractor(onnx_file))


def test_the_same_run_can_be_resumed(checkpoint, description):
    check_resumable(checkpoint, description)


def test_other_data_loss_or_length_can_be_resumed(checkpoint, description):
    description["config"]["trainer"]["max_epochs"] = 50
    description["config"]["data"]["batch_size"] = 9
    description["config"]["loss"] = {"terms": {}}
    check_resumable(checkpoint, description)


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("num_classes", 2, "model.num_classes=3"),
        ("mid_channels", 64, "model.mid_channels=8"),
        ("output_size", [28, 28], "model.output_size=[14, 14]"),
        ("_target_", "roiseg.decoders.other.Other", "model.target=roiseg.decoders.roialign.RoiAlignDecoder"),
        ("new_option", 3, "model.new_option=None"),
    ],
)
def test_another_model_is_a_user_error_that_names_the_field(checkpoint, description, key, value, field):
    description["config"]["model"][key] = value
    message = user_error(check_resumable, checkpoint, description)
    assert field in message
    assert str(value) in message
    assert str(checkpoint) in message
    assert "\n" not in message


@pytest.mark.parametrize(("key", "value"), [("layers", ["other"]), ("shapes", [[32, 8, 8]])])
def test_other_features_are_a_user_error_that_names_the_field(checkpoint, description, key, value):
    description[key] = value
    message = user_error(check_resumable, checkpoint, description)
    assert f"with {key}" in message
    assert str(value) in message


def place(content, folder, epoch=1, age=0, **config):
    """Save a checkpoint with a changed configuration, `age` seconds old; dotted keys with __."""
    content = copy.deepcopy(content)
    for key, value in config.items():
        *parents, last = key.split("__")
        node = content["roiseg"]["config"]
        for parent in parents:
            node = node[parent]
        node[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint_epoch_{epoch:04d}_64x64_5000.pth"
    torch.save(content, path)
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


@pytest.fixture
def config(content):
    return copy.deepcopy(content["roiseg"]["config"])


def test_find_last_takes_the_newest_of_its_own_folder_first(content, config, tmp_path):
    place(content, tmp_path / "own", epoch=1)
    own = place(content, tmp_path / "own", epoch=3, age=100)
    place(content, tmp_path / "sibling", epoch=9)
    assert find_last(tmp_path / "own", config) == own


def test_find_last_finds_the_same_configuration_beside_it(content, config, tmp_path):
    place(content, tmp_path / "a", epoch=9, age=50)
    place(content, tmp_path / "b", epoch=1, age=30)
    wanted = place(content, tmp_path / "b", epoch=2, age=30)
    place(content, tmp_path / "other", age=10, seed=5)
    assert find_last(tmp_path / "new", config) == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model__mid_channels": 16},
        {"loss__class_weights": [1, 2, 3]},
        {"optimizer__lr": 0.02},
        {"scheduler__warmup": 0.2},
        {"data__batch_size": 4},
        {"clicks": {"positive": 2}},
        {"extractor__layers": ["other"]},
        {"trainer__precision": "bf16-mixed"},
        {"callbacks": {"checkpoint": {}, "ema": {}}},
    ],
    ids=str,
)
def test_find_last_passes_over_other_runs(change, content, config, tmp_path):
    place(content, tmp_path / "other", **change)
    assert find_last(tmp_path / "new", config) is None


@pytest.mark.parametrize(
    "change",
    [
        {"trainer__max_epochs": 99},
        {"trainer__default_root_dir": "elsewhere"},
        {"paths": {"output_dir": "elsewhere"}},
        {"callbacks": {"history": {"x": 1}, "checkpoint": {"dirpath": "elsewhere"}}},
    ],
    ids=str,
)
def test_find_last_does_not_mind_where_and_how_long_a_run_writes(change, content, config, tmp_path):
    path = place(content, tmp_path / "same", **change)
    assert find_last(tmp_path / "new", config) == path


def test_find_last_passes_over_damaged_and_foreign_files(content, config, tmp_path):
    wanted = place(content, tmp_path / "same", age=100)
    name = "checkpoint_epoch_0001_64x64_5000.pth"
    for folder, data in (("damaged", b"\x80\x02x"), ("empty", b"")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data)
    foreign = copy.deepcopy(content)
    foreign["roiseg"]["config"] = {"model": {}}
    (tmp_path / "foreign").mkdir()
    torch.save(foreign, tmp_path / "foreign" / name)
    assert find_last(tmp_path / "new", config) == wanted


def test_find_last_where_nothing_is_yet_is_none(config, tmp_path):
    assert find_last(tmp_path / "no" / "such" / "folder", config) is None


def test_identity_is_plain_and_does_not_change_its_input(config):
    before = copy.deepcopy(config)
    assert identity(config) == identity(before)
    assert config == before


def test_how_the_detectors_boxes_are_read_does_not_make_another_run(config):
    other = copy.deepcopy(config)
    other["extractor"]["detector"] = {"_target_": "roiseg.extractor.detector.yolo.Yolo"}
    assert identity(other) == identity(config)
    other["extractor"]["layers"] = ["another"]
    assert identity(other) != identity(config)
