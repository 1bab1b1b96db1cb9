from __future__ import annotations

import math

import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import BceDice, Dice


def naive(logits, target, bce_weight=1.0, dice_weight=1.0, squared=False, smooth=1.0, emphasis=None):
    """Weighted sum of BCE over all pixels and Dice over ROIs, of the target's probability."""
    total = mass = 0.0
    dice = []
    for r, pixels in enumerate(counted(target, emphasis)):
        both = sizes = 0.0
        for y, x, label, weight in pixels:
            p, g = softmax(logits, r, y, x)[1], float(label == 1)
            total += weight * -math.log(p if g else 1 - p)
            mass += weight
            both += weight * p * g
            sizes += weight * (p * p + g * g if squared else p + g)
        dice.append(1 - (2 * both + smooth) / (sizes + smooth))
    return bce_weight * (total / mass if mass else 0.0) + dice_weight * mean(dice)


@pytest.mark.parametrize("parts", [(1.0, 1.0), (0.0, 2.0), (0.5, 0.0)])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("smooth", [1.0, 1e-5])
@pytest.mark.parametrize("emphasised", [False, True])
def test_equals_the_definition(parts, squared, smooth, emphasised):
    logits, target = example(ignored=0.3)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(BceDice(*parts, squared, smooth), logits, target, emphasis=emphasis)
    assert got.dtype == torch.float64
    expected = naive(logits, target, *parts, squared, smooth, emphasis)
    assert got.item() == pytest.approx(expected, rel=1e-9)


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
    got = measure(BceDice(squared=True), logits, target)
    assert got.item() == pytest.approx(naive(logits, target, squared=True), rel=1e-9, abs=1e-12)


def test_is_cross_entropy_plus_dice_for_two_classes():
    logits, target = example(classes=2)
    expected = measure(CrossEntropy(), logits, target) + measure(Dice(), logits, target)
    torch.testing.assert_close(measure(BceDice(), logits, target), expected)


def test_instance_logit_is_the_log_odds_of_the_targets_probability():
    logits, target = example()
    p = logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(LossInput(logits, target).instance_logits, torch.log(p / (1 - p)))


def test_background_and_non_target_are_the_same_to_it():
    logits, target = example()
    swapped = torch.where(target == 0, 2, torch.where(target == 2, 0, target))
    torch.testing.assert_close(measure(BceDice(), logits, target), measure(BceDice(), logits, swapped))


def test_class_weights_have_no_say():
    logits, target = example()
    torch.testing.assert_close(
        measure(BceDice(), logits, target, [0.1, 5.0, 1.0]), measure(BceDice(), logits, target)
    )


def test_squares_of_condinst_by_hand():
    logits = torch.zeros(1, 2, 1, 4, dtype=torch.float64)  # probability 1/2 everywhere
    target = torch.tensor([[[1, 0, 0, 0]]])
    got = measure(BceDice(0.0, 1.0, squared=True, smooth=1e-5), logits, target)
    assert got.item() == pytest.approx(1 - 2 * 0.5 / (4 * 0.25 + 1), abs=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_a_roi_without_target_costs_nothing_where_it_is_predicted_so(squared):
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    term = BceDice(squared=squared, smooth=1e-5)
    assert measure(term, sure(target), target).item() == pytest.approx(0, abs=1e-6)
    assert measure(term, sure(torch.ones_like(target)), target).item() > 1


@pytest.mark.parametrize("parts", [(-1.0, 1.0), (1.0, -1.0), (0.0, 0.0)])
def test_impossible_weights_are_user_errors(parts):
    with pytest.raises(UserError, match="bce_weight and dice_weight of the bce_dice term"):
        BceDice(*parts)
