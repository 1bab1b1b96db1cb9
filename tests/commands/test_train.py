"""What a training run writes, returns and repeats."""

import io
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from composing import composed
from helpers import small_onnx
from onnx import helper
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from roiseg.config.run_summary import RunSummary, print_summary
from roiseg.inference.checkpoint import load_model, read_checkpoint
from roiseg.metrics.registry import LABELS
from roiseg.onnx_export.verify import OnnxCheck
from roiseg.train import train
from tools.chaos.kills import same


def weights(path):
    return read_checkpoint(path)["state_dict"]


def checkpoints(summary):
    return sorted(Path(summary["checkpoint_dir"]).glob("*.pth"))


def test_a_run_writes_just_these_files(finished):
    summary, output = finished.summary, finished.output
    folder = Path(summary["checkpoint_dir"])
    events = [p.name for p in (output / "tensorboard").glob("events.out.tfevents.*")]
    expected = {
        ".roiseg_run", "config.yaml", "summary.json", "instances.csv",
        "csv/version_0/hparams.yaml", "csv/version_0/metrics.csv",
        *(f"onnx/{finished.exported().name}{suffix}" for suffix in ("", ".json", ".md")),
        "overlays/test_worst.png", "overlays/test_best.png",
        "overlays/validation_all_images_epoch_0001.png", "overlays/validation_all_images_epoch_0002.png",
        "tensorboard/hparams.yaml", *(f"tensorboard/{name}" for name in events),
    }  # fmt: skip
    assert {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()} == expected
    assert events
    names = [p.name for p in checkpoints(summary)]
    for number, (name, epoch) in enumerate(zip(names, summary["history"], strict=True), 1):
        assert name == f"checkpoint_epoch_{number:04d}_64x64_{round(epoch['val/miou'] * 10_000):04d}.pth"
    assert {p.name for p in folder.iterdir()} == {".roiseg_run", *names}
    assert folder.parent == finished.root / "checkpoints"


def test_summary_json_holds_what_scripts_need(finished):
    summary = json.loads((finished.output / "summary.json").read_text())
    assert summary == finished.summary
    for name in (*(f"val/{name}" for name in LABELS), "train/loss", "train/loss_ce", "val/loss_dice"):
        assert summary["final"][name] >= 0 and summary["best"][name] >= 0
    assert summary["epochs"] == 2 and summary["seconds"] > 0 and summary["feature_cache"] is None
    assert summary["data"] == {"train_images": 5, "train_rois": 10, "val_images": 5, "val_rois": 10}
    assert summary["parameters"]["trainable"] == summary["parameters"]["total"] > 0
    for key in ("best_checkpoint", "last_overlay", "output_dir", "checkpoint_dir"):
        assert Path(summary[key]).exists()
    assert {"torch", "lightning", "onnxruntime", "python", "roiseg"} <= summary["versions"].keys()
    best = max(summary["history"], key=lambda e: e["val/miou"])
    assert summary["best_checkpoint"] == str(checkpoints(summary)[int(best["epoch"]) - 1])
    assert summary["test"]["test/miou"] == pytest.approx(best["val/miou"], abs=1e-6)


def test_tensorboard_holds_curves_and_overlays(finished):
    events = EventAccumulator(str(finished.output / "tensorboard"), size_guidance={"images": 0}).Reload()
    for name in ("val/miou", "val/target_iou", "val/instance_iou", "train/loss"):
        curve = [event.value for event in events.Scalars(name)]
        assert curve == pytest.approx([epoch[name] for epoch in finished.summary["history"]], abs=1e-6)
    assert [event.step for event in events.Images("val/overlays")] == [1, 2]
    assert len(events.Images("test/worst")) == len(events.Images("test/best")) == 1
    assert "train/lr" in events.Tags()["scalars"]


def test_the_table_of_epochs_fits_a_terminal_of_80_columns(finished, monkeypatch):
    given = {entry.name: finished.summary.get(entry.name) for entry in fields(RunSummary)}
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr("roiseg.config.run_summary.console", console)
    print_summary(RunSummary(**given | {"monitor": "val/miou", "tested_best": True}))
    lines = console.file.getvalue().splitlines()
    assert len(lines) > 6 and max(map(len, lines)) <= 80
    head = "".join(lines[2:4])
    assert all(word in head for word in ("non-target", "instance", "boundary")) and "\u2026" not in head


@pytest.mark.slow
def test_a_constant_learning_rate_is_logged_like_any_other(run_train, tmp_path):
    summary = run_train(tmp_path, "scheduler=null", "optimizer.lr=0.002", "test=false")
    events = EventAccumulator(f"{summary['output_dir']}/tensorboard").Reload()
    assert [event.value for event in events.Scalars("train/lr")] == pytest.approx([0.002, 0.002])
    assert not any(tag.startswith("lr-") for tag in events.Tags()["scalars"])


LATE_TERM = ["loss.terms.dice.from_epoch=2", "loss.learned=true", "model.film=1.0", "model.detail=4"]


@pytest.mark.slow_except
@pytest.mark.parametrize(
    "extra",
    [[], ["callbacks=[default,ema]"], ["data.num_workers=2"], LATE_TERM],
    ids=["plain", "ema", "workers", "late term, learned weights, film, detail"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run_train, tmp_path, extra):
    whole = run_train(tmp_path / "whole", "trainer.max_epochs=3", *extra)
    folder = tmp_path / "cut/checkpoints/run"
    folder.mkdir(parents=True)
    shutil.copy(checkpoints(whole)[0], folder)  # as if killed in the second epoch
    (folder / ".roiseg_run").touch()
    resumed = run_train(tmp_path / "cut", "trainer.max_epochs=3", "ckpt_path=last", *extra)
    assert resumed["resumed_from"] == str(folder / checkpoints(whole)[0].name)
    assert [p.name for p in checkpoints(resumed)] == [p.name for p in checkpoints(whole)]
    assert same(weights(checkpoints(resumed)[-1]), weights(checkpoints(whole)[-1]))
    assert resumed["history"] == whole["history"]
    assert ["train/loss_dice" in epoch for epoch in whole["history"]] == [extra is not LATE_TERM, True, True]


@pytest.mark.slow
def test_figures_stand_with_the_epochs_that_were_validated_only_the_last_among_them(run_train, tmp_path):
    summary = run_train(tmp_path, "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=2")
    assert [epoch["epoch"] for epoch in summary["history"] if "val/miou" in epoch] == [2, 4, 5]
    assert all("train/loss" in epoch for epoch in summary["history"])
    assert [path.name[:21] for path in checkpoints(summary)] == [
        "checkpoint_epoch_0002", "checkpoint_epoch_0004", "checkpoint_epoch_0005",
    ]  # fmt: skip
    assert summary["best_epoch"] in (2, 4, 5)


@pytest.mark.slow_except("True")
@pytest.mark.parametrize("best", [True, False])
def test_the_best_or_the_last_epoch_is_tested_and_exported(run_train, tmp_path, monkeypatch, best):
    monkeypatch.setattr("roiseg.callbacks.onnx_export.export_model", lambda *_: OnnxCheck(1.0, 0.0, 0.0))
    summary = run_train(tmp_path, f"test_best={best}", "callbacks.checkpoint.monitor=train/loss", export=True)
    worst_loss = max(summary["history"], key=lambda epoch: epoch["train/loss"])["epoch"]
    epoch = worst_loss if best else 2  # "best" is the highest
    assert summary["tested_epoch"] == epoch
    assert Path(summary["onnx"]).name.startswith(f"checkpoint_epoch_{epoch:04d}_")


@pytest.mark.slow
def test_a_finished_run_can_be_tested_again_in_another_way(run_train, tmp_path):
    """With EMA, the averaged weights are in the checkpoint only."""
    options = ["test_best=false", "callbacks=[default,ema]", "callbacks.ema.decay=0.9"]
    first = run_train(tmp_path / "a", *options)
    assert first["test"]["test/miou"] == pytest.approx(first["history"][1]["val/miou"], abs=1e-6)
    again, mirrored = (
        run_train(tmp_path / name, *options, f"ckpt_path={checkpoints(first)[-1]}", f"tta={tta}")
        for name, tta in (("b", "null"), ("c", "hflip"))
    )  # fmt: skip
    assert again["test"] == first["test"]
    assert again["epochs"] == first["epochs"]
    assert mirrored["test"] != first["test"]


@pytest.mark.slow
def test_last_finds_the_same_run_among_others_and_goes_on_in_its_folders(run_train, tmp_path, caplog):
    def run(name, *overrides):
        quick = ["test=false", "~callbacks.overlays", "~callbacks.model_text"]
        return run_train(tmp_path, f"paths.output_dir={tmp_path}/outputs/{name}", *quick, *overrides)

    mine = run("mine", "trainer.max_epochs=1", "seed=3", "ckpt_path=last")
    assert mine["resumed_from"] is None
    assert "starts from the beginning" in caplog.text
    run("other", "trainer.max_epochs=1", "seed=4")
    resumed = run("again", "trainer.max_epochs=2", "seed=3", "ckpt_path=last")
    assert resumed["output_dir"] == mine["output_dir"]
    assert resumed["checkpoint_dir"] == mine["checkpoint_dir"]
    assert resumed["epochs"] == 2
    assert len(checkpoints(mine)) == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_in_folders_of_its_own(run_train, tmp_path):
    first = run_train(tmp_path, "seed=7", "trainer.max_epochs=1")
    before = Path(first["output_dir"], "summary.json").read_text()
    second = run_train(tmp_path, "seed=7", "trainer.max_epochs=1")
    other = run_train(tmp_path / "other", "seed=8", "trainer.max_epochs=1")
    assert first["history"] == second["history"]
    assert first["history"] != other["history"]
    assert first["output_dir"] != second["output_dir"]
    assert first["checkpoint_dir"] != second["checkpoint_dir"]
    assert Path(first["output_dir"], "summary.json").read_text() == before


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_does_not_improve(run_train, tmp_path):
    summary = run_train(
        tmp_path, "callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1", "optimizer.lr=0",
        "trainer.max_epochs=9",
    )  # fmt: skip
    assert summary["epochs"] == 2


@pytest.mark.slow
def test_class_weights_are_read_from_an_analysis_that_is_made_where_missing(run_train, tmp_path):
    run_train(tmp_path, "loss.class_weights=log", "trainer.max_epochs=1")
    (path,) = (tmp_path / "data/analysis").rglob("data_analyze.json")
    assert len(json.loads(path.read_text())["class_weights"]["log"]["3"]) == 3


@pytest.mark.slow
def test_the_users_own_setting_runs_on_a_file_of_the_same_shape(run_train, tmp_path):
    onnx = make_yolov9_like(tmp_path / "yolov9.onnx")
    summary = run_train(
        tmp_path, "experiment=coco_person", f"extractor.onnx_path={onnx}",
        "extractor.layers=[/model.34/Concat_output_0]", "extractor.preprocess.image_size=[640,640]",
        "trainer.max_epochs=1", "data.sampler.rois_per_image=1",
    )  # fmt: skip
    assert load_model(summary["best_checkpoint"]).shapes == [(1024, 80, 80)]
    assert "_640x640_" in summary["best_checkpoint"]


def make_yolov9_like(path):
    """A static 1x3x640x640 file with a tensor /model.34/Concat_output_0 [1, 1024, 80, 80], cheap to run."""
    weights = {
        "w": np.random.default_rng(0).normal(0, 0.1, (8, 3, 8, 8)).astype("f4"), "h": np.ones((1, 1024, 1, 1), "f4"),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Concat", ["c"] * 128, ["/model.34/Concat_output_0"], axis=1),
        helper.make_node("Conv", ["/model.34/Concat_output_0", "h"], ["output"]),
    ]
    return small_onnx(path, nodes, weights, {"output": [1, 1, 80, 80]}, size=(640, 640))


@pytest.mark.realdata
def test_real_images_and_a_real_detector_train_draw_and_export(realdata, tmp_path):
    summary = train(composed(["experiment=coco128_yolox", "debug=limit"], tmp_path)).content()
    assert summary["data"] == {"train_images": 44, "train_rois": 161, "val_images": 15, "val_rois": 35}
    assert summary["onnx_check"]["passed"]
    assert summary["onnx_check"]["real"] <= 1e-4
    assert Path(summary["last_overlay"]).is_file()


def test_a_resumed_run_is_tested_with_its_own_decision(finished, tmp_path):
    """The checkpoint that it resumes was fitted with another one."""
    assert finished.summary["test"]["test/instance_iou"] > 0
    own = ["decision=target", "decision.threshold=0.999", f"ckpt_path={finished.checkpoint}"]
    overrides = [*finished.overrides, *own, "~callbacks.onnx_export"]
    summary = train(composed(overrides, tmp_path)).content()
    assert summary["decision"]["threshold"] == 0.999
    assert summary["test"]["test/instance_iou"] == 0
