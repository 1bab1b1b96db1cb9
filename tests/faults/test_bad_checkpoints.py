"""Each wrong, odd or hostile checkpoint ends in one line; nothing in it is run.

Each case changes what a sound checkpoint holds, or the file itself.
"""

import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import user_error
from tiny_run import fit, tiny_config, tiny_extractor

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.common.errors import UserError
from roiseg.config.entry import user_message
from roiseg.inference.checkpoint import checkpoint_metadata, load_model
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.training.resume import check_resumable

pytestmark = pytest.mark.filterwarnings("ignore")


class BadCheckpoint(NamedTuple):
    """A checkpoint and what becomes of it."""

    spoil: Callable[[Path], object]  # gets the path of a sound file
    words: tuple[str, ...]  # of the line that refuses it; empty: it is read


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch owned",)


FILE = "damaged.pth"
DAMAGED = (FILE, "is damaged or contains more than")
FOREIGN = (FILE, "was not written by `python -m roiseg.train`")


def bytes_of(change: Callable[[bytes], bytes]) -> BadCheckpoint:
    return BadCheckpoint(lambda path: path.write_bytes(change(path.read_bytes())), DAMAGED)


def content(change: Callable[[dict[str, Any]], object], *words: str) -> BadCheckpoint:
    def spoil(path):
        loaded = torch.load(path, weights_only=True)
        change(loaded)
        torch.save(loaded, path)

    return BadCheckpoint(spoil, (FILE, *words))


def described(key, value, *words):
    return content(lambda c: c["roiseg"].update({key: value}), *words)


def modelled(words=(), **options):
    """A checkpoint whose model has these options instead."""
    return content(lambda c: c["roiseg"]["config"]["model"].update(options), *words)


def targeted(target, *words):
    return BadCheckpoint(modelled(_target_=target).spoil, words)


def whole(make: Callable[[], Any], words=FOREIGN) -> BadCheckpoint:
    return BadCheckpoint(lambda path: torch.save(make(), path), words)


def weight(change: Callable[[torch.Tensor], torch.Tensor], *words: str) -> BadCheckpoint:
    def replace(loaded):
        name = next(name for name in loaded["state_dict"] if name.endswith("weight"))
        loaded["state_dict"][name] = change(loaded["state_dict"][name])

    return content(replace, *words)


def zipped(mode, name):
    def spoil(path):
        with zipfile.ZipFile(path, mode) as archive:
            archive.writestr(name, "no weights")

    return BadCheckpoint(spoil, DAMAGED)


FITS = "its weights do not fit its own configuration"

FILES = {
    "empty": bytes_of(lambda b: b""),
    "git lfs pointer": bytes_of(lambda b: b"version https://git-lfs.github.com/spec/v1\n"),
    **{f"cut at {share} %": bytes_of(lambda b, s=share: b[: len(b) * s // 100]) for share in (1, 25, 50, 75, 99)},
    "its second half": bytes_of(lambda b: b[len(b) // 2 :]),
    "absent": BadCheckpoint(Path.unlink, (FILE, "not found")),
    "folder": BadCheckpoint(lambda path: (path.unlink(), path.mkdir()), (FILE, "has no checkpoint")),
    "zip of something else": zipped("w", "readme.txt"),
    "zip with a path that leaves its folder": zipped("a", "../../owned"),
    "torchscript": BadCheckpoint(lambda p: torch.jit.script(torch.nn.Linear(2, 2)).save(str(p)), (FILE,)),
    "code beside the weights": BadCheckpoint(content(lambda c: c.update(callbacks=Runs())).spoil, DAMAGED),
    "code in the description": BadCheckpoint(modelled(depth=Runs()).spoil, DAMAGED),
    "code in a plain pickle": BadCheckpoint(lambda path: path.write_bytes(pickle.dumps({"state_dict": Runs()})), DAMAGED),
    "code in torch's old format": BadCheckpoint(
        lambda path: torch.save({"state_dict": Runs()}, path, _use_new_zipfile_serialization=False), DAMAGED
    ),
    "a whole module": whole(lambda: torch.nn.Linear(2, 2), DAMAGED),
    "a tensor": whole(lambda: torch.zeros(3)), "nothing": whole(dict),
    "bare weights": whole(lambda: torch.nn.Linear(2, 2).state_dict()),
    "another program's": whole(lambda: {"state_dict": {}, "epoch": 3, "hyper_parameters": {"lr": 1.0}}),
    "another program's with our name": whole(lambda: {"state_dict": {}, "epoch": 3, "roiseg": "0.1"}),
}  # fmt: skip

DESCRIPTIONS = {
    **{f"format {value!r}": described("format", value, "format") for value in (0, 3, "1", None)},
    "of version 0.1": described("format", 1, "written by roiseg before 0.2: train again or use 0.1"),
    **{
        f"without {key}": content(lambda c, k=key: c["roiseg"].pop(k), key)
        for key in ("config", "layers", "shapes", "strides", "image_size", "extractor_sha256")
    },
    "without an epoch": content(lambda c: c.pop("epoch"), "epoch"),
    "without weights": BadCheckpoint(content(lambda c: c.pop("state_dict")).spoil, FOREIGN),
    "an epoch in words": content(lambda c: c.update(epoch="ten"), "epoch"),
    "within an epoch, without batches": content(lambda c: c.update(in_epoch={"steps": 5, "losses": {}}), "in_epoch"),
    "within an epoch, after its last step": content(lambda c: c.update(in_epoch={"batches": 5, "steps": 5, "losses": {}}), "in_epoch"),
    "an epoch below 0": content(lambda c: c.update(epoch=-3), "epoch"),
    "config of a text": described("config", "none", "config"),
    "config without a model": content(lambda c: c["roiseg"]["config"].pop("model"), "config"),
    "config without an extractor": content(lambda c: c["roiseg"]["config"].pop("extractor"), "config"),
    "an extractor of a text": content(lambda c: c["roiseg"]["config"].update(extractor="_target_"), "config"),
    "model null": content(lambda c: c["roiseg"]["config"].update(model=None), "config"),
    "model of a text": content(lambda c: c["roiseg"]["config"].update(model="roialign"), "config"),
    "model without a class": content(lambda c: c["roiseg"]["config"]["model"].pop("_target_"), "config"),
    **{
        f"{key} {value!r}": described(key, value, key)
        for key, values in {
            "shapes": (None, [], [[1, 2]], [["a", "b", "c"]], 5, [[0, 0, 0]], [[-32, 8, 8]]),
            "strides": (None, [], ["8"], [0], 8, [8, 8, 8]),
            "image_size": (None, [], [64], [64, "x"], 64, [0, 0], [64, 64, 3], [64, 96]),
            "layers": (None, 5, [3], ["another"]),  # than the configuration names
            "extractor_sha256": (None, 5),
        }.items()
        for value in values
    },
}  # fmt: skip

MODELS = {
    "a class of another package": targeted("os.system", "not trusted"),  # more in test_rebuild.py
    "a built-in of a decoder's file": targeted("roiseg.decoders.roialign.__builtins__", "not trusted"),
    "a class of a later version": targeted("roiseg.decoders.roialign.RoiAlignDecoder3", "does not have"),
    "a file of a later version": targeted("roiseg.decoders.holographic.Decoder9", "does not have"),
    "another decoder": modelled((), _target_="roiseg.decoders.unet.UNetDecoder"),
    "another class count": modelled((FITS,), num_classes=2),
    "a class count of nothing": modelled((), num_classes=0),
    "another depth": modelled((FITS,), depth=2), "a depth in words": modelled((), depth="deep"),
    "a depth below 0": modelled((), depth=-1),
    "an option of a later version": modelled(("do not fit",), holograms=3),
    "an output grid out of reach": modelled((), output_size=[13, 17]),
    "an output grid of a number": modelled((), output_size=14),
    "a weight too few": content(lambda c: c["state_dict"].popitem(), FITS),
    "a weight too many": content(lambda c: c["state_dict"].update({"decoder.more": torch.zeros(3)}), FITS),
    "weights with a prefix of torch.compile": content(
        lambda c: c.update(state_dict={f"_orig_mod.{k}": v for k, v in c["state_dict"].items()}), FITS
    ),
    "a weight of another shape": weight(lambda w: w[:-1], FITS),
    "a weight that is a text": weight(lambda w: "weight", FITS),
    "a weight that is not a number": weight(lambda w: w * math.nan, "is nan or infinite"),
    "a weight that is infinite": weight(lambda w: w / 0, "is nan or infinite"),
    "weights in half precision": BadCheckpoint(weight(lambda w: w.half()).spoil, ()),
}  # fmt: skip

RESUMED = {
    f"to resume from, without {key}": content(lambda c, k=key: c.pop(k), f"has no `{key}`")
    for key in ("optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step")
}  # fmt: skip
CHECKPOINTS = FILES | DESCRIPTIONS | MODELS


@pytest.fixture(scope="module")
def checkpoint(coco_set, onnx_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    fit(coco_set, onnx_file, folder.parent, [EpochCheckpoint(folder, [64, 64])], max_epochs=1)
    return newest_checkpoint(folder)


@pytest.fixture
def description(onnx_file):
    return checkpoint_metadata(tiny_config(onnx_file), tiny_extractor(onnx_file))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint(checkpoint, description, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = CHECKPOINTS[name]
    path = shutil.copy(checkpoint, tmp_path / FILE)
    case.spoil(tmp_path / FILE)
    before = sorted(tmp_path.parent.rglob("*"))
    if not case.words:
        model = load_model(path)
        assert all(torch.isfinite(p).all() for p in model.decoder.parameters())
    else:
        with pytest.raises(UserError) as caught:
            load_model(path)
        line = user_message(caught.value)
        assert line.isprintable() and all(word in line for word in (FILE, *case.words)), line
    # a run goes on from it or is told why not
    assert "\n" not in user_error(check_resumable, path, description)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_to_go_on_from(checkpoint, description, tmp_path, name):
    path = shutil.copy(checkpoint, tmp_path / FILE)
    RESUMED[name].spoil(path)
    assert load_model(path)  # good enough for inference
    line = user_error(check_resumable, path, description)
    assert all(word in line for word in RESUMED[name].words)
