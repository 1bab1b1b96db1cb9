"""Runs of the real training on the tiny set, in this process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest
from child_processes import wait_until
from composing import composed
from helpers import ROOT
from hydra.core.global_hydra import GlobalHydra

from roiseg.inference.checkpoint import newest_checkpoint
from roiseg.train import train


@pytest.fixture
def tiny_overrides(coco_set, onnx_file):
    """Command-line overrides that make training run on the tiny set and detector in a second or two."""
    return [
        f"data.train_annotations={coco_set.json}",
        f"data.train_images={coco_set.images}",
        f"data.val_annotations={coco_set.json}",
        f"data.val_images={coco_set.images}",
        "data.source=null",
        "data.num_workers=0",
        "data.batch_size=2",
        f"extractor.onnx_path={onnx_file}",
        "extractor.layers=[/model.6/Concat_output_0]",
        "extractor.source=null",
        "extractor.preprocess.image_size=[64,64]",
        "model.mid_channels=16",
        "model.min_channels=8",
        "model.depth=1",
        "trainer=cpu",
        "trainer.max_epochs=2",
    ]


@pytest.fixture
def run_train(tiny_overrides):
    """Train in this process: `run_train(root, *overrides)` returns the summary; ONNX export is off."""

    def run(root, *overrides, export=False):
        extra = [] if export else ["~callbacks.onnx_export"]
        return train(composed([*tiny_overrides, *extra, *overrides], root)).content()

    return run


@pytest.fixture
def run_main(monkeypatch, capfd, tmp_path):
    """Run a command's `main` in this process as from a shell in tmp_path: returns (exit code, stderr)."""

    def run(module, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
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
        return code, capfd.readouterr().err

    root = logging.getLogger()
    level = root.level
    yield run
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)  # Hydra's, of a stream that closes now


@pytest.fixture
def start_train(tmp_path):
    """Train in a process and process group of its own; returns the process once it has saved a checkpoint."""

    def start(arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "roiseg.train", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: newest_checkpoint(tmp_path / "ckpt") is not None, lambda: process.poll() is None)
        return process

    return start
