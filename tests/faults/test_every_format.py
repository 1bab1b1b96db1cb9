"""A short run of the fuzzer over files that are read; `python -m tools.fuzz CASES SEED` takes every format."""

from __future__ import annotations

from tools.fuzz import run

NAMES = [
    "annotations", "boxes-csv", "boxes-yolo", "boxes-coco", "results-coco", "image.jpg", "image.png", "image.tif",
    "image.bmp",
]  # fmt: skip


def test_readers_succeed_or_say_what_is_wrong(tmp_path):
    outcomes = run(180, 3, NAMES, tmp_path)
    assert {name: outcome.failures for name, outcome in outcomes.items() if outcome.failures} == {}
    assert all(outcome.counts.total() == 20 for outcome in outcomes.values())
