"""A run whose test averages over mirror images."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_run_with_mirrored_test_trains_the_same_and_measures_the_average(run_train, tmp_path):
    plain = run_train(tmp_path / "plain", "trainer.max_epochs=3")
    mirrored = run_train(tmp_path / "mirrored", "trainer.max_epochs=3", "tta=hflip")
    assert mirrored["history"] == plain["history"]
    assert mirrored["test"]["test/loss"] == plain["test"]["test/loss"]
    assert mirrored["test"] != plain["test"]
    for summary in (plain, mirrored):
        with open(Path(summary["output_dir"]) / "instances.csv", newline="") as stream:
            ious = [float(row["iou"]) for row in csv.DictReader(stream)]
        assert summary["test"]["test/instance_iou"] == pytest.approx(sum(ious) / len(ious), abs=1e-6)
