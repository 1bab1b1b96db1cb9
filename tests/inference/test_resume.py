"""What a run may go on from, and where it is found."""

import copy
import itertools
import os
import shutil

import pytest
import torch
from helpers import user_error
from helpers.races import acting_before_call
from tiny_run import tiny_config, tiny_extractor

from roiseg.inference.checkpoint import checkpoint_metadata
from roiseg.training.resume import check_resumable, find_last

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def description(onnx_file):
    return checkpoint_metadata(tiny_config(onnx_file), tiny_extractor(onnx_file))


def put(config, key, value):
    *parents, last = key.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[last] = value


@pytest.mark.parametrize(("key", "value"), [
    ("trainer.max_epochs", 50), ("trainer.accelerator", "gpu"), ("data.num_workers", 7),
    ("data.train_images", "moved/images"),
    ("data.cache", {"_target_": "roiseg.extractor.cache.disk.DiskCache"}),
    ("extractor.onnx_path", "moved/tiny.onnx"),
    ("extractor.postprocess", {"_target_": "roiseg.extractor.postprocess.yolo.Yolo"}),
    ("callbacks", {"history": {"x": 1}}), ("logger", {"wandb": {}}), ("paths.output_dir", "elsewhere"),
    ("optimized_metric", "val/miou"),
])  # fmt: skip
def test_what_a_resumed_run_honours_may_change(checkpoint, description, key, value):
    put(description["config"], key, value)
    check_resumable(checkpoint, description)


@pytest.mark.parametrize(("key", "value", "field"), [
    ("model.num_classes", 2, "model.num_classes=3"),
    ("model._target_", "roiseg.decoders.other.Other", "model._target_=roiseg.decoders.roialign.RoiAlign"),
    ("model.new_option", 3, "model.new_option=None"), ("optimizer.lr", 0.5, "optimizer.lr=0.01"),
    ("scheduler", None, "scheduler={"),
    ("loss.terms.ce.weight", 2.0, "loss.terms.ce.weight=1.0"),
    ("data.batch_size", 9, "data.batch_size=2"), ("data.folds", {"held_out": 2}, "data.folds=None"),
    ("extractor.preprocess.divisor", 1.0, "extractor.preprocess.divisor=255.0"),
    ("trainer.accumulate_grad_batches", 4, "trainer.accumulate_grad_batches=None"),
    ("trainer.devices", 2, "trainer.devices=None"), ("callbacks.ema", {"decay": 0.9}, "callbacks.ema=None"),
    ("seed", 5, "seed=0"), ("clicks", {"positive": 2}, "clicks=None"),
    ("distillation", {"weight": 2.0}, "distillation=None"),
])  # fmt: skip
def test_what_it_cannot_honour_is_refused_by_name(checkpoint, description, key, value, field):
    put(description["config"], key, value)
    message = user_error(check_resumable, checkpoint, description)
    assert field in message
    assert f"(this run: {value})" in message
    assert str(checkpoint) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"), [("layers", ["other"]), ("shapes", [[32, 8, 8]]), ("extractor_sha256", "00ff")]
)
def test_other_features_are_a_user_error_that_names_the_field(checkpoint, description, key, value):
    description[key] = value
    message = user_error(check_resumable, checkpoint, description)
    assert f"with {key}" in message
    assert str(value) in message


def place(content, folder, epoch=1, age=0, **config):
    """Save a checkpoint with a changed configuration, `age` seconds old; dotted keys with __."""
    content = copy.deepcopy(content)
    for key, value in config.items():
        put(content["roiseg"]["config"], key.replace("__", "."), value)
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
    assert find_last(tmp_path / "own", config) is None
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
    ("change", "same"),
    [
        ({"seed": 1}, False),
        ({"model__mid_channels": 16}, False),
        ({"trainer__precision": "bf16-mixed"}, False),
        ({"callbacks": {"checkpoint": {}, "ema": {}}}, False),
        ({"trainer__max_epochs": 99}, True),
        ({"trainer__default_root_dir": "elsewhere"}, True),
        ({"paths": {"output_dir": "elsewhere"}}, True),
        ({"callbacks": {"history": {"x": 1}, "checkpoint": {"dirpath": "elsewhere"}}}, True),
    ],
    ids=str,
)
def test_find_last_passes_over_other_runs_wherever_they_write(change, same, content, config, tmp_path):
    path = place(content, tmp_path / "other", **change)
    assert find_last(tmp_path / "new", config) == (path if same else None)


def test_find_last_passes_over_damaged_and_foreign_files(content, config, tmp_path):
    wanted = place(content, tmp_path / "same", age=100)
    for folder, data in (("damaged", b"\x80\x02x"), ("empty", b"")):
        place(content, tmp_path / folder).write_bytes(data)
    foreign = copy.deepcopy(content)
    foreign["roiseg"]["config"] = {"model": {}}
    torch.save(foreign, place(content, tmp_path / "foreign"))
    assert find_last(tmp_path / "new", config) == wanted


@pytest.mark.parametrize("gone", ["beside", "beside/checkpoint_epoch_0009_64x64_5000.pth"])
def test_find_last_does_not_mind_runs_that_are_removed_meanwhile(
    gone, content, config, tmp_path, monkeypatch
):
    wanted = place(content, tmp_path / "same", age=100)
    for number in itertools.count():
        newest = place(content, tmp_path / "beside", epoch=9)

        def remove():
            shutil.rmtree(path) if (path := tmp_path / gone).is_dir() else path.unlink()

        with acting_before_call(number, tmp_path / "beside", remove, monkeypatch) as acted:
            assert find_last(tmp_path / "new", config) in (wanted, newest)
        if not acted:
            break
    assert number > 1
