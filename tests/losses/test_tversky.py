from __future__ import annotations

import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.losses.dice import Dice, Tversky


def naive(logits, target, classes=(1,), alpha=0.3, beta=0.7, smooth=1.0, emphasis=None):
    """Mean over ROIs and classes of 1 - (TP + s) / (TP + a FP + b FN + s), in Python floats."""
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        for k in (k for k in classes if k < logits.shape[1]):
            hit = wrong = missed = 0.0
            for y, x, label, weight in pixels:
                p = softmax(logits, r, y, x)[k]
                if label == k:
                    hit += weight * p
                    missed += weight * (1 - p)
                else:
                    wrong += weight * p
            losses.append(1 - (hit + smooth) / (hit + alpha * wrong + beta * missed + smooth))
    return mean(losses)


@pytest.mark.parametrize("classes", [(1,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("prices", [(0.3, 0.7), (1.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("smooth", [1.0, 1e-3])
@pytest.mark.parametrize("emphasised", [False, True])
def test_equals_the_definition(classes, prices, smooth, emphasised):
    logits, target = example(ignored=0.3)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(Tversky(classes, *prices, smooth), logits, target, emphasis=emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(logits, target, classes, *prices, smooth, emphasis), rel=1e-9)


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
    got = measure(Tversky([1, 2]), logits, target)
    assert got.item() == pytest.approx(naive(logits, target, [1, 2]), abs=1e-9)


def test_equal_prices_of_a_half_are_dice_with_twice_the_smooth():
    logits, target = example()
    torch.testing.assert_close(
        measure(Tversky([1, 2], 0.5, 0.5, smooth=0.5), logits, target),
        measure(Dice([1, 2], smooth=1.0), logits, target),
    )


def test_prices_of_one_are_one_minus_iou():
    target = torch.tensor([[[1, 1, 0, 0]]])
    predicted = torch.tensor([[[0, 1, 1, 1]]])  # 1 of 4 in common
    got = measure(Tversky([1], 1.0, 1.0, smooth=1e-6), sure(predicted), target)
    assert got.item() == pytest.approx(0.75, abs=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.7, 0.3)])
def test_alpha_is_the_price_of_wrong_pixels_and_beta_of_missed_ones(alpha, beta):
    target = torch.tensor([[[1] * 6 + [0] * 4]])
    wrong, missed = target.clone(), target.clone()
    wrong[..., 6:8] = 1
    missed[..., :2] = 0
    term = Tversky([1], alpha, beta, smooth=1e-6)
    assert measure(term, sure(wrong), target).item() == pytest.approx(1 - 6 / (6 + 2 * alpha), abs=1e-4)
    assert measure(term, sure(missed), target).item() == pytest.approx(1 - 4 / (4 + 2 * beta), abs=1e-4)


def test_absent_class_costs_what_is_predicted_of_it():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    assert measure(Tversky(), sure(target), target).item() == pytest.approx(0, abs=1e-6)
    wrong = measure(Tversky(), sure(torch.ones_like(target)), target)
    assert wrong.item() == pytest.approx(1 - 1 / (0.3 * 16 + 1))


def test_prices_of_zero_are_a_user_error():
    with pytest.raises(UserError, match="alpha and beta of the tversky term"):
        Tversky([1], 0.0, 0.0)
