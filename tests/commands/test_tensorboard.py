"""What TensorBoard finds in the event files of real runs."""

from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

pytestmark = pytest.mark.slow


def events(summary):
    """The event files of a run, read whole."""
    everything = {"images": 0, "tensors": 0, "scalars": 0}
    return EventAccumulator(f"{summary['output_dir']}/tensorboard", size_guidance=everything).Reload()


def size(summary):
    """Bytes of the event files."""
    return sum(p.stat().st_size for p in (Path(summary["output_dir"]) / "tensorboard").glob("events.*"))


def text(found, tag):
    (event,) = found.Tensors(f"{tag}/text_summary")
    return tensor_util.make_ndarray(event.tensor_proto).item().decode()


def test_precision_and_recall_are_there_for_every_epoch(run_train, tmp_path):
    summary = run_train(tmp_path)
    found = events(summary)
    assert found.SummaryMetadata("val/pr_curve").plugin_data.plugin_name == "pr_curves"
    curves = found.Tensors("val/pr_curve")
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


def test_the_tab_of_hyper_parameters_gets_settings_and_scalars(run_train, tmp_path, monkeypatch):
    choices = {"model": "roialign", "loss": "ce_dice", "data/augment": "light", "experiment": None}
    overrides = [
        "model.num_classes=2", "optimizer.lr=0.002", "loss.terms.dice.term.classes=[1,2]",
        "data.sampler.jitter_share=0.25",
    ]  # fmt: skip
    task = [*overrides, f"paths.output_dir={tmp_path}/2", "~callbacks.onnx_export"]
    node = OmegaConf.create({"runtime": {"choices": choices}, "overrides": {"task": task}, "mode": None})
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: node))
    summary = run_train(tmp_path, *overrides)
    found = events(summary)
    start, end = (
        found.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    )
    entered = metadata.parse_session_start_info_plugin_data(start).hparams
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in entered.items()} == {
        "model": "roialign", "loss": "ce_dice", "data/augment": "light", "seed": 0, "model.num_classes": 2,
        "optimizer.lr": 0.002, "loss.terms.dice.term.classes": "[1, 2]", "data.sampler.jitter_share": 0.25,
        "data.batch_size": 2, "trainer.max_epochs": 2, "trainer.precision": "32-true",
    }  # fmt: skip
    assert metadata.parse_session_end_info_plugin_data(end).status == api_pb2.STATUS_SUCCESS
    # else what other runs have would be hidden
    assert metadata.EXPERIMENT_TAG not in found.PluginTagToContent("hparams")
    for name, value in summary["test"].items():
        assert found.Scalars(name)[-1].value == pytest.approx(value, abs=1e-6), name


def test_the_model_is_described_and_measuring_it_changes_nothing(run_train, finished, tmp_path):
    described = finished.summary
    plain = run_train(tmp_path, *finished.overrides, "~callbacks.model_text")
    assert described["history"] == plain["history"]
    shown = text(events(described), "model")
    parameters = f"{described['parameters']['total']:,}"
    rows = "`/model.3/Concat_output_0` | 20 | 16 x 16 | 4", f"| all |  | {parameters} |"
    assert all(part in shown for part in ("RoiAlignDecoder", *rows, "ms |"))
    assert "model/text_summary" not in events(plain).Tags()["tensors"]


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
    curves = events(summary).Tensors("val/pr_curve")
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
