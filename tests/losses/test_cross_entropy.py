from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.losses import example
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.cross_entropy import CrossEntropy


def naive(logits, target, weights=None, smoothing=0.0):
    """Cross-entropy by its definition: loops over pixels in Python floats."""
    rois, classes, height, width = logits.shape
    weights = [1.0] * classes if weights is None else weights
    total = mass = 0.0
    for r in range(rois):
        for y in range(height):
            for x in range(width):
                truth = int(target[r, y, x])
                if truth == IGNORE:
                    continue
                values = [float(logits[r, c, y, x]) for c in range(classes)]
                top = max(values)
                norm = top + math.log(sum(math.exp(v - top) for v in values))
                for c in range(classes):
                    wanted = (1 - smoothing) * (c == truth) + smoothing / classes
                    total += wanted * weights[c] * (norm - values[c])
                mass += weights[truth]
    return total / mass if mass else 0.0


def loss(logits, target, weights=None, smoothing=0.0):
    weights = None if weights is None else torch.tensor(weights)
    return CrossEntropy(smoothing)(LossInput(logits, target, weights))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0], [0.0, 1.0, 2.0]])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_equals_the_definition(weights, smoothing, ignored):
    logits, target = example(ignored=ignored)
    got = loss(logits, target, weights, smoothing)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(logits, target, weights, smoothing), rel=1e-6)


@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
)
@settings(max_examples=30)
def test_equals_the_definition_for_any_shape(seed, classes, rois, height, width, ignored):
    logits, target = example(rois, classes, (height, width), seed, ignored)
    weights = list(np.random.default_rng(seed).uniform(0.1, 3, classes))
    assert loss(logits, target, weights).item() == pytest.approx(naive(logits, target, weights), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_classes_of_weight_zero_give_zero_with_zero_gradients(smoothing):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    got = loss(logits, torch.zeros(2, 4, 4, dtype=torch.long), [0.0, 1.0, 1.0], smoothing)
    got.backward()
    assert got.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_single_pixel_is_minus_log_of_its_probability():
    logits = torch.tensor([1.0, 2.0, 0.5]).reshape(1, 3, 1, 1)
    expected = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(0.5)))
    assert loss(logits, torch.tensor([[[1]]])).item() == pytest.approx(expected, rel=1e-6)


def test_perfect_prediction_is_near_zero_and_uniform_is_log_of_the_class_count():
    _, target = example(ignored=0)
    perfect = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) * 30.0
    assert loss(perfect, target).item() < 1e-9
    assert loss(torch.zeros_like(perfect), target).item() == pytest.approx(math.log(3))


def test_scaling_all_class_weights_changes_nothing():
    logits, target = example()
    torch.testing.assert_close(loss(logits, target, [5.0, 30.0, 10.0]), loss(logits, target, [0.5, 3.0, 1.0]))
