from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.losses.lovasz import LovaszSoftmax


def jaccard_loss(truth, mistakes):
    """1 - IoU of the mask that differs from `truth` in the set of indices `mistakes`."""
    predicted = {i for i, t in enumerate(truth) if t != (i in mistakes)}
    true = {i for i, t in enumerate(truth) if t}
    union = predicted | true
    return 1 - len(predicted & true) / len(union) if union else 0.0


def extension(truth, errors):
    """Lovász extension of `jaccard_loss`, by its definition: every prefix of the sorted pixels anew."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    return sum(
        errors[i] * (jaccard_loss(truth, set(order[: n + 1])) - jaccard_loss(truth, set(order[:n])))
        for n, i in enumerate(order)
    )


def naive(logits, target, classes=(1,), emphasis=None):
    """Mean over ROIs and the classes they show."""
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        pixels = [pixel for pixel in pixels if pixel[3] > 0]
        for k in (k for k in classes if k < logits.shape[1]):
            truth = [label == k for _, _, label, _ in pixels]
            errors = [
                abs(t - softmax(logits, r, y, x)[k]) for t, (y, x, _, _) in zip(truth, pixels, strict=True)
            ]
            if any(truth):
                losses.append(extension(truth, errors))
    return mean(losses)


@pytest.mark.parametrize("classes", [(1,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
@pytest.mark.parametrize("emphasised", [False, True])
def test_equals_the_definition(classes, ignored, emphasised):
    logits, target = example(ignored=ignored)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(LovaszSoftmax(classes), logits, target, emphasis=emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(logits, target, classes, emphasis), rel=1e-9)


@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
)
@settings(max_examples=40)
def test_equals_the_definition_for_any_shape(seed, classes, rois, height, width, ignored):
    logits, target = example(rois, classes, (height, width), seed, ignored)
    got = measure(LovaszSoftmax([1, 2]), logits, target)
    assert got.item() == pytest.approx(naive(logits, target, [1, 2]), abs=1e-9)


def test_is_one_minus_iou_for_every_mask_of_zeros_and_ones():
    for bits in itertools.product([0, 1], repeat=6):
        target = torch.tensor([1, 1, 0, 0, 1, 0]).reshape(1, 2, 3)
        predicted = torch.tensor(bits).reshape(1, 2, 3)
        both = int(((predicted == 1) & (target == 1)).sum())
        either = int(((predicted == 1) | (target == 1)).sum())
        got = measure(LovaszSoftmax(), sure(predicted, 2, 100.0), target)
        assert got.item() == pytest.approx(1 - both / either, abs=1e-6)


def test_does_not_depend_on_the_order_of_equal_errors():
    """All probabilities 1/3: errors of two sizes only, many ties."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        target = torch.from_numpy(rng.integers(0, 3, (1, 4, 4)))
        logits = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
        expected = naive(logits, target, (0, 1, 2))
        assert measure(LovaszSoftmax([0, 1, 2]), logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_each_roi_that_shows_the_class_counts_the_same():
    target = torch.zeros(3, 4, 4, dtype=torch.long)
    target[0] = 1
    target[1, 0, 0] = 1  # the third has none
    predicted = torch.stack([torch.zeros_like(target[0]), target[1], torch.zeros_like(target[0])])
    assert measure(LovaszSoftmax(), sure(predicted), target).item() == pytest.approx(0.5, abs=1e-6)


def test_a_class_a_roi_does_not_show_costs_nothing_there():
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    logits = torch.randn(2, 3, 3, 3, requires_grad=True)
    got = measure(LovaszSoftmax(), logits, target)
    got.backward()
    assert got.item() == 0
    assert not logits.grad.any()


def test_emphasis_above_zero_has_no_say():
    logits, target = example()
    emphasis = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 3, target.shape))
    torch.testing.assert_close(
        measure(LovaszSoftmax(), logits, target, emphasis=emphasis), measure(LovaszSoftmax(), logits, target)
    )
