"""Commands in this process on the tiny set, and one finished run for all tests."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from child_processes import wait_until
from composing import composed
from filelock import FileLock
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from tiny_run import one_thread

from helpers import make_onnx, start_command, tiny_coco
from roiseg.common.console import StdoutHandler
from roiseg.inference.checkpoint import load_model
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.train import train


def overrides_of(coco_set, onnx_file):
    """Command-line overrides that make training run on a set and the tiny detector in a second or two."""
    return [
        f"data.train_annotations={coco_set.json}", f"data.train_images={coco_set.images}",
        f"data.val_annotations={coco_set.json}", f"data.val_images={coco_set.images}", "data.source=null",
        "data.num_workers=0", "data.batch_size=2", f"extractor.onnx_path={onnx_file}",
        "extractor.layers=[/model.6/Concat_output_0]", "extractor.source=null",
        "extractor.preprocess.image_size=[64,64]", "model.mid_channels=16", "model.min_channels=8",
        "model.depth=1", "trainer=cpu", "trainer.max_epochs=2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_overrides(coco_set, onnx_file):
    """`overrides_of` the shared set."""
    return overrides_of(coco_set, onnx_file)


@dataclass(frozen=True)
class FinishedRun:
    """A run of two epochs, its best checkpoint exported alone and merged; shared, so read-only."""

    root: Path
    overrides: list[str]
    summary: dict[str, Any]

    @property
    def output(self):
        return Path(self.summary["output_dir"])

    @property
    def checkpoint(self):
        return Path(self.summary["best_checkpoint"])

    @property
    def detector(self):
        return self.root / "tiny.onnx"

    def exported(self, merged=False):
        return self.root / "merged.onnx" if merged else Path(self.summary["onnx"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """The `FinishedRun`, trained by the first process of xdist that needs it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "finished"
    done = root / "done.json"
    with FileLock(f"{root}.lock"), one_thread():
        if not done.is_file():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            files = tiny_coco(root / "tiny_coco"), make_onnx(root / "tiny.onnx")
            learning = [
                "optimizer.lr=0.02",
                "extractor.layers=[/model.3/Concat_output_0]",
            ]  # finds some masks
            overrides = [*overrides_of(*files), *learning]
            summary = train(composed(overrides, root)).content()
            model = load_model(summary["best_checkpoint"])
            with pytest.MonkeyPatch.context() as patch:  # the decoder's graph is the same
                alone = onnx.load(summary["onnx"])
                patch.setattr("roiseg.onnx_export.export.export_decoder", lambda *_: alone)
                export_model(model, root / "merged.onnx", ExportOptions(merged=True), model.extractor())
            done.write_text(json.dumps([overrides, summary]))
    return FinishedRun(root, *json.loads(done.read_text()))


@pytest.fixture(scope="session")
def checkpoint(finished):
    """The checkpoint of the finished run."""
    return finished.checkpoint


def changed_checkpoint(checkpoint, path, config=None, **data):
    """Copy a checkpoint with other sections in its configuration and other keys of `data`; returns the path."""
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["config"] |= config or {}
    content["roiseg"]["config"]["data"] |= data
    torch.save(content, path)
    return path


@pytest.fixture
def single_thread():
    """Run a test with one thread of PyTorch; tiny tensors are slower with more."""
    with one_thread():
        yield


@pytest.fixture
def run_train(tiny_overrides):
    """Train in this process: `run_train(root, *overrides)` returns the summary; ONNX export is off."""

    def run(root, *overrides, export=False):
        extra = [] if export else ["~callbacks.onnx_export"]
        return train(composed([*tiny_overrides, *extra, *overrides], root)).content()

    return run


@pytest.fixture
def run_main(monkeypatch, capfd, tmp_path):
    """Run a command's `main` in this process as from a shell in tmp_path, or `folder`: returns (exit code, stderr).

    `run_main.printed` is what it wrote to stdout.
    """
    # it composes once more, for hydra.mode, which no test sets
    monkeypatch.setattr(Hydra, "get_mode", lambda *args, **options: None)

    def run(module, *arguments, folder=tmp_path):
        GlobalHydra.instance().clear()
        monkeypatch.chdir(folder)
        for name in ("HYDRA_FULL_ERROR", "ROISEG_FULL_ERROR"):  # what main sets is gone with the test
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for place, hook in ((threading, "excepthook"), (sys, "unraisablehook")):
            monkeypatch.setattr(place, hook, getattr(place, hook))
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        capfd.readouterr()
        try:
            module.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        os.environ.pop("HYDRA_FULL_ERROR", None)
        run.printed, stderr = capfd.readouterr()
        return code, stderr

    root = logging.getLogger()
    level = root.level
    yield run
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, StdoutHandler):
            root.removeHandler(handler)  # Hydra's, of a stream that closes now


@pytest.fixture
def refused(run_main):
    """Run a command that must end with code 2 and one line on stderr that holds all `words`; returns the line."""

    def run(module, arguments, *words):
        code, stderr = run_main(module, *arguments)
        lines = [line for line in stderr.splitlines() if line.strip()]
        assert code == 2, stderr
        assert len(lines) == 1, stderr
        assert lines[0].startswith("roiseg: error: ")
        assert all(str(word) in lines[0] for word in words), lines[0]
        return lines[0]

    return run


@pytest.fixture
def start_train(tmp_path):
    """Train in a process and process group of its own; returns the process once it has saved a checkpoint."""

    def start(arguments):
        own = {"stdout": subprocess.DEVNULL, "start_new_session": True}
        process = start_command(["roiseg.train", *arguments], tmp_path, **own)
        wait_until(lambda: newest_checkpoint(tmp_path / "ckpt") is not None, lambda: process.poll() is None)
        return process

    return start
