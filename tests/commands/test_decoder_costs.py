"""`python -m roiseg.doctor decoders=...`, in this process, on the tiny detector."""

from __future__ import annotations

import json

import pytest

import roiseg.doctor
from roiseg.diagnosis.decoder_costs import figures_of_runs


@pytest.fixture
def tiny(tiny_overrides):
    """Overrides that concern the detector and the decoder."""
    return [o for o in tiny_overrides if o.startswith(("extractor.", "model."))]


def test_costs_are_written_and_follow_the_overrides(run_main, tiny, tmp_path):
    arguments = [*tiny, "decoders=[roialign]", "output=costs.json"]
    assert run_main(roiseg.doctor, *arguments)[0] == 0
    narrow = json.loads((tmp_path / "costs.json").read_text())["roialign"]
    assert run_main(roiseg.doctor, *arguments, "model.mid_channels=32")[0] == 0
    wide = json.loads((tmp_path / "costs.json").read_text())["roialign"]
    assert set(narrow) == {"parameters", "image_macs", "roi_macs", "roi_ms"}
    assert wide["image_macs"] == 2 * narrow["image_macs"] == 2 * 8 * 8 * 32 * 16
    assert wide["parameters"] > narrow["parameters"]


def test_figures_of_runs_stand_beside_the_costs(run_main, tiny, tmp_path, capfd):
    run = tmp_path / "sweep" / "0_roialign"
    run.mkdir(parents=True)
    summary = {
        "choices": {"model": "roialign"},
        "test": {"test/target_iou": 0.6251, "test/instance_iou": 0.5},
        "data": {}, "parameters": {"trainable": 1000}, "seconds": 2.5,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    figures = figures_of_runs(tmp_path / "sweep")
    assert figures == {"roialign": {"test/target_iou": 0.6251, "test/instance_iou": 0.5}}
    assert run_main(roiseg.doctor, *tiny, "decoders=[roialign]", "runs=sweep")[0] == 0


def test_a_decoder_that_cannot_be_built_is_left_out_with_its_reason(run_main, tiny, tmp_path):
    without = [o for o in tiny if not o.startswith("model.")]
    assert run_main(roiseg.doctor, *without, "decoders=[roialign,fcn8s]", "output=costs.json")[0] == 0
    assert set(json.loads((tmp_path / "costs.json").read_text())) == {"roialign"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decoders=[roialing]"], ["decoders", "roialing", "roialign"]),
        (["decoders=[fcn8s]"], ["fcn8s", "three"]),
        (["decoders=[roialign]", "device=abacus"], ["device=abacus"]),
        (["decoders=[roialign]", "runs=/nowhere"], ["/nowhere", "runs"]),
        (["decoders=[roialign]", "runs=."], ["summary.json"]),
        (["decoders=[roialign]", "extractor.layers=[x]"], ["extractor", "x"]),
        (["decoders=[roialign]", "model.depht=1"], ["model.depht"]),
    ],
)
def test_mistakes_end_in_one_line(refused, tiny, arguments, words):
    without = [o for o in tiny if not o.startswith("model.")]
    refused(roiseg.doctor, [*without, *arguments], *words)
