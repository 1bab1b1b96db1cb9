"""Reading checkpoints: whole, damaged, malicious; which is the newest."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from helpers import make_onnx, user_error
from tiny_run import LAYER, tiny_extractor

from roiseg.common.errors import UserError
from roiseg.common.outputs import own
from roiseg.inference.checkpoint import load_model, newest_checkpoint, read_checkpoint, remove_outdated

pytestmark = pytest.mark.filterwarnings("ignore")


def save(content, path):
    torch.save(content, path)
    return path


def assert_one_line_about(path, message):
    assert message
    assert "\n" not in message
    assert str(path) in message


def test_a_run_leaves_one_checkpoint_an_epoch(run):
    names = sorted(path.name for path in run[0].glob("[!.]*"))
    assert [re.sub(r"_\d{4,5}\.pth", "_M.pth", name) for name in names] == [
        "checkpoint_epoch_0001_64x64_M.pth",
        "checkpoint_epoch_0002_64x64_M.pth",
    ]


def test_load_model_gives_back_the_decoder_and_what_belongs_to_it(run, checkpoint, onnx_file):
    _, module = run
    extractor = tiny_extractor(onnx_file)
    model = load_model(checkpoint)
    assert not model.decoder.training
    trained = module.decoder.state_dict()
    assert model.decoder.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in model.decoder.state_dict().items())
    assert model.path == checkpoint
    assert model.epoch == 2
    assert list(model.layers) == [LAYER]
    assert list(model.shapes) == [(20, 16, 16)]
    assert model.image_size == (64, 64)
    assert model.extractor_sha256 == extractor.digest
    features = extractor(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8))
    rois = torch.tensor([[0, 3.0, 4, 50, 60]])
    with torch.no_grad():
        expected = module.eval().decoder(features, rois).logits
        torch.testing.assert_close(model.decoder(features, rois).logits, expected, atol=1e-5, rtol=1e-5)


def test_needs_nothing_but_the_file(checkpoint, tmp_path, content):
    """Neither detector nor data need to be where they were."""
    content["roiseg"]["config"]["extractor"]["onnx_path"] = "/nowhere/detector.onnx"
    moved = save(content, tmp_path / "renamed.pth")
    assert load_model(moved).epoch == 2
    with pytest.raises(UserError, match=r"/nowhere/detector\.onnx"):
        load_model(moved).extractor()


def test_opens_the_extractor_it_was_trained_on(checkpoint, onnx_file, tmp_path):
    moved = tmp_path / "elsewhere.onnx"
    shutil.copy(onnx_file, moved)
    here, there = load_model(checkpoint).extractor(), load_model(checkpoint).extractor(str(moved))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(here(images)[0], there(images)[0])
    assert torch.equal(here(images)[0], tiny_extractor(onnx_file)(images)[0])


def test_another_extractor_is_a_user_error(checkpoint, tmp_path):
    other = make_onnx(tmp_path / "other.onnx", batch="N")
    with pytest.raises(UserError, match="SHA-256"):
        load_model(checkpoint).extractor(str(other))


def test_absent_files_and_folders_are_user_errors(tmp_path):
    assert "not found" in user_error(read_checkpoint, tmp_path / "gone.pth")
    assert "folder" in user_error(read_checkpoint, tmp_path)
    assert "not set" in user_error(read_checkpoint, "")


def test_truncated_files_are_user_errors(checkpoint, tmp_path):
    whole, path = checkpoint.read_bytes(), tmp_path / "cut.pth"
    for length in {0, 1, 2, 10, *range(100, len(whole), len(whole) // 40), len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert_one_line_about(path, user_error(load_model, path))


def test_truncated_files_of_the_old_torch_format_are_user_errors(content, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert load_model(path).epoch == 2
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        assert_one_line_about(path, user_error(load_model, path))


@pytest.mark.parametrize("prefix", [b"", b"\x80\x02", b"PK\x03\x04"], ids=["plain", "pickle", "zip"])
def test_random_bytes_are_user_errors(prefix, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "random.pth"
    for _ in range(150):
        path.write_bytes(prefix + rng.bytes(int(rng.integers(0, 200))))
        assert_one_line_about(path, user_error(read_checkpoint, path))


def test_flipped_bytes_are_user_errors_or_harmless(content, tmp_path):
    """Never another exception than a UserError, wherever the damage is."""
    path, rng = tmp_path / "flipped.pth", np.random.default_rng(0)
    small = {key: content[key] for key in ("roiseg", "epoch")} | {"state_dict": {"decoder.x": torch.ones(3)}}
    for zipped in (True, False):
        torch.save(small, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] = rng.integers(256)
            path.write_bytes(bytes(damaged))
            user_error(read_checkpoint, path)


class RunsCode:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("writer", ["torch", "torch, old format", "pickle", "inside a real checkpoint"])
def test_code_in_a_pickle_is_not_run(writer, content, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    evil = RunsCode(f"touch {trace}")
    if writer == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif writer == "inside a real checkpoint":
        torch.save({**content, "extra": evil}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=writer == "torch")
    for read in (read_checkpoint, load_model):
        assert_one_line_about(path, user_error(read, path))
    assert not trace.exists()
    with contextlib.suppress(RuntimeError):  # the trap itself works
        torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "command": "touch TRACE"},
        {"_target_": "subprocess.Popen", "args": ["touch", "TRACE"]},
        {"_target_": "pathlib.Path.touch", "self": "TRACE"},
        {"_target_": "roiseg.common.files.write_json", "path": "TRACE", "content": {}},
        {"_target_": "roiseg.config.run_dir.create_unique_dir", "folder": "TRACE"},
        {
            "_target_": "roiseg.config.build.instantiate",
            "config": [({"_target_": "os.mkdir", "path": "TRACE"},)],
        },
        {
            "_target_": "roiseg.decoders.roialign.RoiAlignDecoder",
            "depth": {"_target_": "os.mkdir", "path": "TRACE"},
        },
    ],
    ids=lambda node: node["_target_"],
)
def test_code_in_the_configuration_is_not_called(node, content, tmp_path):
    trace = tmp_path / "trace"

    def fill(value):
        if isinstance(value, dict):
            return {k: fill(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(fill(v) for v in value)
        return value.replace("TRACE", str(trace)) if isinstance(value, str) else value

    as_model, as_extractor = copy.deepcopy(content), copy.deepcopy(content)
    as_model["roiseg"]["config"]["model"] = fill(node)
    as_extractor["roiseg"]["config"]["extractor"]["preprocess"] = fill(node)
    path = save(as_model, tmp_path / "model.pth")
    assert "not trusted" in user_error(load_model, path)
    model = load_model(save(as_extractor, tmp_path / "extractor.pth"))
    assert "not trusted" in user_error(model.extractor)
    assert not trace.exists()


@pytest.mark.parametrize("number", [0, 3, None, "2"])
def test_another_format_is_a_user_error_that_names_both(number, content, tmp_path):
    content["roiseg"]["format"] = number
    message = user_error(load_model, save(content, tmp_path / "format.pth"))
    assert f"format {number}" in message
    assert "reads 2" in message


def test_a_checkpoint_of_version_0_1_says_what_to_do(content, tmp_path):
    content["roiseg"]["format"] = 1
    message = user_error(load_model, save(content, tmp_path / "old.pth"))
    assert "written by roiseg before 0.2: train again or use 0.1" in message


@pytest.mark.parametrize(
    "wrong",
    [
        {}, [], torch.zeros(3), "text", None, {"state_dict": {}}, {"roiseg": {"format": 1}},
        {"roiseg": 3, "state_dict": {}}, {"roiseg": {"format": 1}, "state_dict": [1]},
    ],
    ids=repr,
)  # fmt: skip
def test_what_train_did_not_write_is_a_user_error(wrong, tmp_path):
    path = save(wrong, tmp_path / "foreign.pth")
    assert "was not written by" in user_error(load_model, path)


@pytest.mark.parametrize("key", ["config", "layers", "shapes", "strides", "image_size", "extractor_sha256"])
def test_an_incomplete_description_is_a_user_error(key, content, tmp_path):
    del content["roiseg"][key]
    path = save(content, tmp_path / "incomplete.pth")
    assert key in user_error(load_model, path)
    assert_one_line_about(path, user_error(load_model, path))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["roiseg"]["config"]["model"].update(mid_channels=16),
        lambda content: content["roiseg"]["config"]["model"].update(depth=2),
        lambda content: content["roiseg"]["config"]["model"].update(num_classes=2),
        lambda content: content["roiseg"].update(shapes=[[19, 16, 16]]),
        lambda content: content["state_dict"].pop("decoder.predict.bias"),
        lambda content: content["state_dict"].update({"decoder.extra": torch.zeros(1)}),
        lambda content: content["state_dict"].update({"decoder.predict.bias": "text"}),
        lambda content: content["state_dict"].clear(),
    ],
)
def test_weights_that_do_not_fit_are_a_user_error(change, content, tmp_path):
    change(content)
    path = save(content, tmp_path / "misfit.pth")
    message = user_error(load_model, path)
    assert_one_line_about(path, message)
    assert "do not fit" in message


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


@pytest.mark.parametrize(
    "name",
    [
        "last.pth", "checkpoint_epoch_0001_64x64_0500.onnx", "checkpoint_epoch_0001_64x64_0500.pth.tmp",
        ".checkpoint_epoch_0001_64x64_0500-x.pth", "checkpoint_epoch_1_64x64_0500.pth",
    ],
)  # fmt: skip
def test_newest_sees_only_checkpoints(name, tmp_path):
    (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path) is None


def test_newest_of_an_absent_folder_is_none(tmp_path):
    assert newest_checkpoint(tmp_path / "gone") is None
