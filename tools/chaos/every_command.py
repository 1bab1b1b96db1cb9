"""All commands that write, on tiny inputs, as functions of their output folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tests.helpers import make_onnx, tiny_coco
from tests.run_folders import noisy, write_run
from tests.tiny_video import write_video
from tools.chaos import forked, kills

Make = Callable[[Path], list[str]]
WRITERS = ("coco", "crops", "labelme", "labels", "overlay", "six_panel", "yolo_seg")


class Inputs:
    """The inputs of the commands, created on first use.

    Args:
        folder: where they are created.
    """

    def __init__(self, folder: Path) -> None:
        self.data = folder / "inputs"
        self.data.mkdir()
        self.coco = tiny_coco(self.data)
        make_onnx(self.data / "tiny.onnx")

    @functools.cached_property
    def checkpoint(self) -> Path:
        """Return the checkpoint of a training run of one epoch."""
        folder = self.data / "run"
        folder.mkdir()
        arguments = [
            *train(self, folder, export=False),
            "trainer.max_epochs=1",
            "~callbacks.overlays",
            "test=false",
        ]
        outcome = forked.run("train", arguments, folder)
        if outcome.code:
            raise RuntimeError(outcome.output)
        return next((folder / "ckpt").glob("*.pth"))

    @functools.cached_property
    def video(self) -> Path:
        """Return a video of one second of noise, which needs much space."""
        return write_video(self.data / "video.mp4", count=12, size=(240, 320))

    @functools.cached_property
    def runs(self) -> Path:
        """Return two finished runs."""
        folder = self.data / "runs"
        for number in (2, 3):
            write_run(folder / f"run{number}", noisy(number / 5), model__num_classes=number)
        return folder

    @functools.cached_property
    def source(self) -> Path:
        """Return the tiny set in the layout in which COCO is distributed."""
        folder = self.data / "distributed"
        (folder / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            name = f"instances_{split}2017.json"
            (folder / "annotations" / name).write_text(json.dumps(self.coco.content()))
            (folder / f"{split}2017").symlink_to(self.coco.images)
        return folder


def train(inputs: Inputs, folder: Path, export: bool = True) -> list[str]:
    """Return a training run of two epochs that writes every kind of file to folders of its own."""
    arguments = [a for a in kills.command(inputs.data, folder, export) if not a.startswith("logger=")]
    return [
        *arguments,
        "logger=[tensorboard,csv]",
        "trainer.max_epochs=2",
        "callbacks.overlays.row_height=40",
    ]


def commands(inputs: Inputs) -> dict[str, tuple[str, Make]]:
    """Return name -> program and its arguments to write to a folder."""
    usual = [a for a in train(inputs, inputs.data) if a.startswith(("data.", "extractor.", "model."))]
    tiny = [argument for argument in usual if not argument.startswith("data.cache")]
    predict = [f"onnx_path={inputs.data}/tiny.onnx", f"boxes={inputs.coco.json}", "device=cpu"]
    found: dict[str, tuple[str, Make]] = {
        "train": ("train", lambda folder: train(inputs, folder)),
        "evaluate": ("evaluate", lambda f: [f"ckpt={inputs.checkpoint}", f"output_dir={f}/out", "data.num_workers=0",
                                            f"paths.root_dir={f}", "device=cpu"]),
        "export": ("export", lambda f: [f"ckpt={inputs.checkpoint}", f"output={f}/made.onnx"]),
        "preview": ("preview", lambda f: [*tiny, f"paths.root_dir={f}", f"output={f}/preview.png"]),
        "analyze": ("analyze", lambda f: [f"annotations={inputs.coco.json}", f"output_dir={f}", f"index_dir={f}/index"]),
        "report": ("report", lambda f: [str(inputs.runs), f"output_dir={f}", "resamples=100"]),
        "prepare": ("prepare", lambda f: [f"source={inputs.source}", f"output_dir={f}", "sizes=[2]", "images=copy"]),
        "demo data": ("demo", lambda f: ["make=[data]", f"root={f}/set", "train_images=3", "val_images=2"]),
        "demo": ("demo", lambda f: ["make=[detector]", f"output={f}/made.onnx"]),
        "doctor": ("doctor", lambda f: [*tiny, f"paths.root_dir={f}", f"output={f}/doctor.json"]),
        "decoder costs": ("doctor", lambda f: [*tiny, "decoders=all", f"output={f}/models.json"]),
    }  # fmt: skip
    for writer in WRITERS:
        found[f"predict {writer}"] = ("predict", functools.partial(_predict, inputs, predict, writer))
    found["predict video"] = ("predict", functools.partial(_predict_video, inputs))
    return found


def _predict(inputs: Inputs, shared: list[str], writer: str, folder: Path) -> list[str]:
    return [f"source={inputs.coco.images}", f"ckpt={inputs.checkpoint}", *shared, f"writers=[{writer}]",
            f"output_dir={folder}/out"]  # fmt: skip


def _predict_video(inputs: Inputs, folder: Path) -> list[str]:
    boxes = inputs.data / "boxes"
    boxes.mkdir(exist_ok=True)
    for number in range(12):
        (boxes / f"{inputs.video.stem}_{number:06d}.txt").write_text("0 0.5 0.5 0.5 0.8\n")
    return [f"source={inputs.video}", f"ckpt={inputs.checkpoint}", f"onnx_path={inputs.data}/tiny.onnx",
            f"boxes={boxes}", "device=cpu", "writers=[overlay]", f"output_dir={folder}/out"]  # fmt: skip
