"""Counts of cells, bands of instances and the quality of a mask, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roiseg.metrics.confusion import Confusion
from roiseg.metrics.instance import InstanceRecord, mask_quality
from roiseg.metrics.size_bands import bands


@given(st.sampled_from([2, 3]), st.integers(0, 1000), st.integers(0, 4))
def test_cells_are_counted_by_true_and_predicted_class(columns, seed, batches):
    rng = np.random.default_rng(seed)
    confusion, expected = Confusion(columns), np.zeros((3, columns), int)
    for _ in range(batches):
        truth = rng.choice([0, 1, 2, 255], size=(3, 4, 5))
        predicted = rng.integers(0, columns, size=(3, 4, 5))
        confusion.update(torch.from_numpy(predicted), torch.from_numpy(truth))
        for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
            if t != 255:
                expected[t, p] += 1
    np.testing.assert_array_equal(confusion.counts.numpy(), expected)


def test_shares_of_what_was_taken():
    confusion = Confusion(2)
    confusion.counts = torch.tensor([[90, 10], [20, 60], [70, 30]])
    assert confusion.shares() == {
        "target_found": pytest.approx(60 / 80), "others_taken": pytest.approx(30 / 100),
        "target_is_others": pytest.approx(30 / 100), "target_is_background": pytest.approx(10 / 100),
    }  # fmt: skip
    assert set(Confusion(2).shares().values()) == {None}
    assert confusion.summary()["non_target"] == {"rest": 70, "target": 30}


def record(number, area, share, iou):
    return InstanceRecord(1, "a.jpg", number, 0, 0, 9, 9, area, share, iou, iou / 2)


def test_every_instance_is_in_one_band_of_each_group_and_means_are_right():
    rng = np.random.default_rng(0)
    records = [
        record(i, area, share, float(rng.uniform(0, 1)))
        for i, (area, share) in enumerate(
            [(10, 0.0), (1023, 0.1), (1024, 0.11), (9215, 0.5), (9216, 0.0), (5 * 10**5, 0.2)]
        )
    ]
    sides = [15.9, 16.0, 31.0, 64.0, 500.0, 191.0]
    found = bands(records, sides)
    for group in {band.group for band in found}:
        assert sum(band.instances for band in found if band.group == group) == len(records)
    by_name = {(band.group, band.name): band for band in found}
    small, crowded = by_name["annotated area", "small"], by_name["company", "crowded"]
    assert small.instances == 2 and small.instance_iou == pytest.approx((records[0].iou + records[1].iou) / 2)
    assert crowded.instances == 3
    ious = [records[i].iou for i in (2, 3, 5)]
    assert crowded.instance_iou == pytest.approx(np.mean(ious))
    assert crowded.instance_iou75 == pytest.approx(np.mean([iou >= 0.75 for iou in ious]))
    assert crowded.boundary_iou == pytest.approx(np.mean(ious) / 2)
    assert {name for group, name in by_name if group == "ROI side, input"} == {
        "0-16 px", "16-32 px", "64-96 px", "96-192 px", "192+ px",
    }  # fmt: skip
    assert bands([], []) == []


def test_quality_is_the_mean_probability_inside_the_mask():
    values = np.array([[0.1, 0.5, 0.9], [0.49, 1.0, 0.0]], np.float32)
    assert mask_quality(values) == pytest.approx((0.5 + 0.9 + 1.0) / 3)
    assert mask_quality(values * 0.4) == 0
