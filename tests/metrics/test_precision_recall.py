"""Counts at thresholds, against a loop over pixels and against torchmetrics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roiseg.metrics.confusion import PrecisionRecallCurve

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
