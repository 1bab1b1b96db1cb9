from __future__ import annotations

import pytest
import torch

from roiseg.metrics.loss_means import WeightedMean


def test_weights_count():
    mean = WeightedMean()
    for value, weight in ((1.0, 4), (3.0, 8), (7.0, 0)):
        mean.update(torch.tensor(value, requires_grad=True), weight)
    assert float(mean.compute()) == pytest.approx((4 + 24) / 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows(value):
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), 2)
    mean.update(torch.tensor(value), 2)
    assert not torch.isfinite(mean.compute())
