"""What the README and the pages beside it show is run."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest
from helpers import ROOT
from tiny_run import fit

import roiseg.train
from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.inference.checkpoint import newest_checkpoint

README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
BESIDE = [
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("cluster", "training", "decoders", "quality")
]
PAGES = "\n".join([README, EXTENDING, *BESIDE])
COMMANDS = sorted(set(re.findall(r"`[^`\n]*?-m (roiseg\.\w+[^`]*)`", PAGES)))


def block(language, page):
    """The one fenced block of a language on a page."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    return text


def test_the_new_decoder_trains_exports_and_loads_with_nothing_else_changed(
    run_main, tiny_overrides, tmp_path, monkeypatch
):
    module = types.ModuleType("roiseg.decoders.linear")
    exec(block("python", EXTENDING), module.__dict__)
    module.LinearDecoder.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "extra" / "model").mkdir(parents=True)
    (tmp_path / "extra" / "model" / "linear.yaml").write_text(block("yaml", EXTENDING))
    tiny = [o for o in tiny_overrides if not o.startswith("model.")]
    extra = f"hydra.searchpath=[file://{tmp_path / 'extra'}]"
    code, stderr = run_main(roiseg.train, *tiny, extra, "model=linear", "model.film=1.0", "model.detail=4")
    assert code == 0, stderr
    (path,) = tmp_path.glob("outputs/train/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["choices"]["model"] == "linear"
    assert summary["onnx_check"]["passed"]
    assert Path(summary["onnx"]).is_file()


@pytest.fixture(scope="module")
def checkpoint(coco_set, onnx_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(coco_set, onnx_file, folder, [EpochCheckpoint(folder, [64, 64])])
    return newest_checkpoint(folder)


def test_the_python_shown_gives_masks(coco_set, checkpoint, tmp_path, monkeypatch):
    shutil.copy(checkpoint, tmp_path / "person.pth")
    shutil.copy(coco_set.images / "a.jpg", tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    shown: dict = {}
    exec(block("python", README), shown)
    assert shown["masks"].shape == (1, 80, 100)
    assert shown["results"][0]["bbox"] == [10, 12, 38, 58]


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("shown", COMMANDS)
def test_every_command_shown_composes(shown, run_main, checkpoint, tmp_path, monkeypatch):
    shutil.copy(checkpoint, tmp_path / "FILE")  # evaluate starts from what a checkpoint holds
    monkeypatch.setenv("ROISEG_REALDATA", "/data")
    name, *arguments = shlex.split(shown)
    module = importlib.import_module(name)
    if "model=linear" in arguments:
        pytest.skip("the worked example, run above")
    if "-m" in arguments:  # the first job of the sweep
        arguments = [re.sub(r"=(\w+),\S+", r"=\1", a) for a in arguments if a != "-m"]
    flags = [] if "--help" in arguments or "--cfg" in arguments else ["--cfg", "job"]
    code, stderr = run_main(module, *arguments, *flags)
    assert code == 0, stderr
