"""What TensorBoard finds in the event files of real runs, and what it makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import hydra.core.hydra_config
import numpy as np
import pytest
import torch
from child_processes import wait_until
from helpers import ROOT
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from roiseg.callbacks.model_summary import describe_model

pytestmark = pytest.mark.slow


@pytest.fixture
def chosen(monkeypatch):
    """Say what the command line chose and overrode, as Hydra does."""

    def choose(choices, overrides):
        node = OmegaConf.create(
            {"runtime": {"choices": choices}, "overrides": {"task": overrides}, "mode": None}
        )
        monkeypatch.setattr(hydra.core.hydra_config.HydraConfig, "initialized", staticmethod(lambda: True))
        monkeypatch.setattr(hydra.core.hydra_config.HydraConfig, "get", staticmethod(lambda: node))

    return choose


def events(summary):
    """The event files of a run, read whole."""
    found = EventAccumulator(
        str(Path(summary["output_dir"]) / "tensorboard"), size_guidance={"images": 0, "tensors": 0, "scalars": 0}
    )  # fmt: skip
    return found.Reload()


def size(summary):
    """Bytes of the event files."""
    return sum(p.stat().st_size for p in (Path(summary["output_dir"]) / "tensorboard").glob("events.*"))


def settings(found):
    """The hyper-parameters entered."""
    content = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def text(found, tag):
    (event,) = found.Tensors(f"{tag}/text_summary")
    return tensor_util.make_ndarray(event.tensor_proto).item().decode()


def test_precision_and_recall_are_there_for_every_epoch(run_train, tmp_path):
    summary = run_train(tmp_path)
    found = events(summary)
    assert found.SummaryMetadata("target").plugin_data.plugin_name == "pr_curves"
    curves = found.Tensors("target")
    assert [event.step for event in curves] == [1, 2]
    # pixels of the metric's grid over 10 ROIs; at 0.5 two classes cannot both win, so the curve meets the IoU
    for event, epoch in zip(curves, summary["history"], strict=True):
        true_positive, false_positive, true_negative, false_negative, precision, recall = (
            tensor_util.make_ndarray(event.tensor_proto)
        )
        total = true_positive + false_positive + true_negative + false_negative
        assert (total == total[0]).all()
        assert 0.8 * 10 * 56 * 56 < total[0] <= 10 * 56 * 56
        assert recall[0] == 1
        assert (np.diff(recall) <= 0).all()
        assert precision[0] == pytest.approx(true_positive[0] / total[0])
        half = slice(63, 64)
        iou = true_positive[half] / (true_positive + false_positive + false_negative)[half]
        assert iou == pytest.approx(epoch["val/target_iou"], abs=0.1)


def test_the_table_of_hyper_parameters_shows_the_settings_and_the_test_of_each_run(
    run_train, tmp_path, chosen
):
    choices = {
        "model": "roialign",
        "loss": "ce_dice",
        "data/augment": "light",
        "experiment": None,
        "paths": "default",
    }
    summaries = {}
    for classes, rate in ((3, 0.001), (2, 0.002)):
        overrides = [
            f"model.num_classes={classes}",
            f"optimizer.lr={rate}",
            "loss.terms.dice.term.classes=[1,2]",
        ]
        only = ["data.sampler.jitter_share=0.25"] if classes == 2 else []
        chosen(
            choices, [*overrides, *only, f"paths.output_dir={tmp_path}/{classes}", "~callbacks.onnx_export"]
        )
        summaries[classes] = run_train(tmp_path, *overrides, *only, f"paths.output_dir={tmp_path}/{classes}")
    found = events(summaries[2])
    assert settings(found) == {
        "model": "roialign", "loss": "ce_dice", "data/augment": "light", "seed": 0, "model.num_classes": 2,
        "optimizer.lr": 0.002, "loss.terms.dice.term.classes": "[1, 2]", "data.sampler.jitter_share": 0.25,
        "data.batch_size": 2, "trainer.max_epochs": 2, "trainer.precision": "32-true",
    }  # fmt: skip

    with served_by_tensorboard(tmp_path, tmp_path / "tensorboard.log") as url:
        rows = table_of_tensorboard(url, sum(len(summary["test"]) for summary in summaries.values()))
    assert len(rows) == 2
    for row in rows:
        summary = summaries[row["hparams"]["model.num_classes"]]
        assert row["status"] == "STATUS_SUCCESS"
        for name, value in summary["test"].items():
            assert row["metrics"][name] == pytest.approx(value, abs=1e-6), name
    (of_two,) = [row for row in rows if row["hparams"]["model.num_classes"] == 2]
    assert of_two["hparams"]["data.sampler.jitter_share"] == 0.25


@contextmanager
def served_by_tensorboard(folder, log):
    """The address of a TensorBoard of these runs, in a process of its own: its threads never end."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "localhost"]
    options = ["--port", "0", "--load_fast", "false", "--reload_interval", "1"]
    with log.open("w") as stream, subprocess.Popen([*command, *options], stderr=stream) as server:
        try:
            address = re.compile(r" at (http://\S+)")
            wait_until(lambda: address.search(log.read_text()), lambda: server.poll() is None)
            yield address.search(log.read_text())[1]
        finally:
            server.terminate()


def table_of_tensorboard(url, figures):
    """Rows of the tab HPARAMS as TensorBoard itself serves them, once it has read that many `figures` of tests."""

    def ask(route, question):
        request = urllib.request.Request(
            f"{url}data/plugin/hparams/{route}", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    groups = []

    def all_read():  # it reads the files in the background
        groups[:] = ask("session_groups", every(ask("experiment", {}))).get("sessionGroups", [])
        tags = [value["name"]["tag"] for group in groups for value in group["metricValues"]]
        return sum(tag.startswith("test/") for tag in tags) == figures

    wait_until(all_read)
    return [
        {
            "hparams": group["hparams"],
            "metrics": {value["name"]["tag"]: value["value"] for value in group["metricValues"]},
            "status": group["sessions"][0]["status"],
        }
        for group in groups
    ]


def every(experiment):
    columns = [{"hparam": info["name"]} for info in experiment.get("hparamInfos", ())]
    columns += [{"metric": info["name"]} for info in experiment.get("metricInfos", ())]
    return {"startIndex": 0, "sliceSize": 100, "allowedStatuses": [
        "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"], "colParams": columns}  # fmt: skip


def test_the_model_is_described_and_measuring_it_changes_nothing(run_train, finished, tmp_path):
    described = finished.summary
    plain = run_train(tmp_path, *finished.overrides, "~callbacks.model_text")
    assert described["history"] == plain["history"]
    shown = text(events(described), "model")
    parameters = f"{described['parameters']['total']:,}"
    rows = "`/model.3/Concat_output_0` | 20 | 16 x 16 | 4", f"| all |  | {parameters} |"
    assert all(part in shown for part in ("RoiAlignDecoder", *rows, "ms |"))
    assert "model/text_summary" not in events(plain).Tags()["tensors"]


def test_parts_add_up_to_the_whole(onnx_file):
    from tiny_run import tiny_decoder, tiny_extractor

    extractor = tiny_extractor(onnx_file)
    decoder = tiny_decoder(extractor, detail=4).train()
    before = torch.get_rng_state()
    lines = [line.strip("| ").split(" | ") for line in describe_model(decoder, extractor).splitlines()]
    assert torch.equal(torch.get_rng_state(), before)
    assert decoder.training
    start = lines.index(["part", "type", "parameters"]) + 2
    counts = []
    while lines[start][0] != "all":
        counts.append(int(lines[start][-1].replace(",", "")))
        start += 1
    assert (
        sum(counts) == int(lines[start][-1].replace(",", "")) == sum(p.numel() for p in decoder.parameters())
    )


def test_the_graph_is_drawn_where_it_is_asked_for(run_train, tmp_path):
    options = ["extractor.layers=[/model.3/Concat_output_0,/model.6/Concat_output_0]", "trainer.max_epochs=1"]
    summary = run_train(tmp_path / "with", "callbacks=[default,graph]", *options)
    without = run_train(tmp_path / "without", *options)
    assert events(summary).Tags()["graph"]
    assert not events(without).Tags()["graph"]
    assert any("conv" in node.op for node in events(summary).Graph().node)
    assert summary["history"] == without["history"]


def test_nothing_is_written_or_counted_without_a_tensorboard_logger(run_train, tmp_path):
    summary = run_train(tmp_path, "logger=csv", "callbacks=[default,graph]")
    assert not list(Path(summary["output_dir"]).rglob("*tfevents*"))
    assert summary["epochs"] == 2


def test_curves_are_drawn_every_nth_epoch(run_train, tmp_path):
    summary = run_train(tmp_path, "trainer.max_epochs=4", "callbacks.pr_curve.every_n_epochs=2",
                        "callbacks.pr_curve.thresholds=11")  # fmt: skip
    curves = events(summary).Tensors("target")
    assert [event.step for event in curves] == [2, 4]
    assert tensor_util.make_ndarray(curves[0].tensor_proto).shape == (6, 11)


def test_an_epoch_adds_little_beside_its_overlay(run_train, tmp_path):
    options = ["~callbacks.overlays", "~callbacks.extremes"]
    short, long = (size(run_train(tmp_path / str(n), f"trainer.max_epochs={n}", *options)) for n in (2, 6))
    assert 3000 < (long - short) / 4 < 6000


def test_make_tensorboard_listens_on_this_machine_only():
    recipe = (ROOT / "Makefile").read_text().split("\ntensorboard:")[1].split("\n\n")[0]
    assert "--host localhost" in recipe
    assert "--logdir outputs" in recipe
