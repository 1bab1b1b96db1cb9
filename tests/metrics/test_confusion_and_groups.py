"""Counts of cells, also at thresholds, and groups of instances, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roiseg.metrics.confusion import Confusion, PrecisionRecallCurve
from roiseg.metrics.instance import InstanceRecord, group_instances
from roiseg.metrics.registry import ALL_INSTANCES
from roiseg.metrics.roi import WeightedMean


@given(st.sampled_from([2, 3]), st.integers(0, 1000), st.integers(0, 4))
def test_cells_are_counted_by_true_and_predicted_class(columns, seed, batches):
    rng = np.random.default_rng(seed)
    confusion, expected = Confusion(columns), np.zeros((3, columns), int)
    for _ in range(batches):
        truth = rng.choice([0, 1, 2, 255], size=(3, 4, 5))
        predicted = rng.integers(0, columns, size=(3, 4, 5))
        confusion.update(torch.from_numpy(predicted), torch.from_numpy(truth))
        np.add.at(expected, (truth[truth != 255], predicted[truth != 255]), 1)
    np.testing.assert_array_equal(confusion.counts.numpy(), expected)


def test_rates_of_the_predicted_target():
    confusion = Confusion(2)
    confusion.confmat[:, :2] = torch.tensor([[90, 10], [20, 60], [70, 30]])
    assert confusion.rates() == {
        "target_recall": pytest.approx(60 / 80), "non_target_as_target": pytest.approx(30 / 100),
        "predicted_target_on_non_target": pytest.approx(30 / 100),
        "predicted_target_on_background": pytest.approx(10 / 100),
    }  # fmt: skip
    assert set(Confusion(2).rates().values()) == {None}
    assert confusion.summary()["non_target"] == {"rest": 70, "target": 30}


def test_every_instance_is_in_one_group_of_each_criterion_and_means_are_right():
    rng = np.random.default_rng(0)
    areas_and_shares = [(10, 0.0), (1023, 0.1), (1024, 0.11), (9215, 0.5), (9216, 0.0), (5 * 10**5, 0.2)]
    ious = rng.uniform(0, 1, len(areas_and_shares)).tolist()
    given = enumerate(zip(areas_and_shares, ious, strict=True))
    records = [InstanceRecord(1, "a.jpg", n, 0, 0, 9, 9, *of, iou, iou / 2, 0.5) for n, (of, iou) in given]
    groups = group_instances(records, [15.9, 16.0, 31.0, 64.0, 500.0, 191.0])
    for criterion in {group.criterion for group in groups}:
        assert sum(group.instances for group in groups if group.criterion == criterion) == len(records)
    by_name = {(group.criterion, group.name): group for group in groups}
    for key, members in {("annotated area", "small"): (0, 1), ("crowding", "crowded"): (2, 3, 5)}.items():
        chosen, group = [records[i] for i in members], by_name[key]
        assert group.instances == len(members)
        means = {metric.name: np.mean([metric.value(one) for one in chosen]) for metric in ALL_INSTANCES}
        assert group.means == pytest.approx(means)
    sides = {name for criterion, name in by_name if criterion == "ROI side, input"}
    assert sides == {"0-16 px", "16-32 px", "64-96 px", "96-192 px", "192+ px"}
    assert group_instances([], []) == []


def test_a_weighted_mean_counts_weights_and_shows_what_is_not_a_number():
    mean = WeightedMean()
    for value, weight in ((1.0, 4), (3.0, 8), (7.0, 0)):
        mean.update(torch.tensor(value, requires_grad=True), weight)
    assert float(mean.compute()) == pytest.approx((4 + 24) / 12)
    mean.update(torch.tensor(float("inf")), 2)
    assert not torch.isfinite(mean.compute())


pixels = st.lists(
    st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0, 1, 2, 255])),
    max_size=40,
)  # fmt: skip


def counted(*batches, thresholds):
    curve = PrecisionRecallCurve(thresholds)
    for batch in batches:
        labels = torch.tensor([t for _, t in batch], dtype=torch.uint8)
        curve.update(torch.tensor([p for p, _ in batch]).float(), labels)
    return curve.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@given(pixels, pixels, st.sampled_from([2, 5, 101]))
def test_counts_are_those_of_a_loop_over_thresholds_and_pixels(first, second, thresholds):
    found = counted(first, second, thresholds=thresholds)
    known = [(torch.tensor(p), t) for p, t in [*first, *second] if t != 255]
    for number, limit in enumerate(torch.linspace(0, 1, thresholds)):
        called = [t for p, t in known if p >= limit]
        left = [t for p, t in known if p < limit]
        expected = {
            "true_positive_counts": called.count(1), "false_positive_counts": len(called) - called.count(1),
            "false_negative_counts": left.count(1), "true_negative_counts": len(left) - left.count(1),
            "precision": called.count(1) / len(called) if called else 1.0,
            "recall": called.count(1) / max(1, called.count(1) + left.count(1)),
        }  # fmt: skip
        assert {name: float(values[number]) for name, values in found.items()} == pytest.approx(expected)
