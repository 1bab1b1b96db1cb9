from __future__ import annotations

import math

import pytest
import torch
from helpers.losses import example, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.dice import Dice


def naive(logits, target, classes=(1,), smooth=1.0):
    """Mean over ROIs and classes of 1 - (2 sum pg + s) / (sum p + sum g + s), in Python floats."""
    rois, count, height, width = logits.shape
    losses = []
    for r in range(rois):
        for k in (k for k in classes if k < count):
            both = predicted = true = 0.0
            for y in range(height):
                for x in range(width):
                    truth = int(target[r, y, x])
                    if truth == IGNORE:
                        continue
                    values = [float(logits[r, c, y, x]) for c in range(count)]
                    top = max(values)
                    p = math.exp(values[k] - top) / sum(math.exp(v - top) for v in values)
                    both += p * (truth == k)
                    predicted += p
                    true += truth == k
            losses.append(1 - (2 * both + smooth) / (predicted + true + smooth))
    return sum(losses) / len(losses) if losses else 0.0


def loss(logits, target, classes=(1,), smooth=1.0):
    return Dice(classes, smooth)(LossInput(logits, target))


@pytest.mark.parametrize("classes", [(1,), (1, 2), (0, 1, 2), (2, 1)])
@pytest.mark.parametrize("smooth", [1.0, 1e-3])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_equals_the_definition(classes, smooth, ignored):
    logits, target = example(ignored=ignored)
    got = loss(logits, target, classes, smooth)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(logits, target, classes, smooth), rel=1e-9)


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
    assert loss(logits, target, [1, 2]).item() == pytest.approx(naive(logits, target, [1, 2]), abs=1e-9)


def test_hand_computed_example():
    logits = torch.zeros(1, 2, 1, 4)  # probability 1/2 everywhere
    target = torch.tensor([[[1, 0, 0, 0]]])
    # overlap 0.5, sizes 2 + 1: 1 - (1 + 1) / (3 + 1)
    assert loss(logits, target).item() == pytest.approx(0.5)


def test_absent_class_costs_what_is_predicted_of_it():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    assert loss(sure(target), target).item() == pytest.approx(0, abs=1e-6)  # nothing predicted: no loss
    wrong = loss(sure(torch.ones_like(target)), target)
    assert wrong.item() == pytest.approx(1 - 1 / (16 + 1))


def test_single_pixel():
    logits = torch.tensor([0.0, math.log(3.0)]).reshape(1, 2, 1, 1)  # p = 3/4
    assert loss(logits, torch.tensor([[[1]]])).item() == pytest.approx(1 - (1.5 + 1) / (1.75 + 1))


def test_perfect_prediction_is_near_zero_and_all_wrong_near_one():
    target = torch.tensor([[[1, 1, 2], [0, 2, 1], [0, 0, 1]]]).repeat(2, 10, 10)
    assert loss(sure(target), target, [1, 2]).item() == pytest.approx(0, abs=1e-6)
    assert loss(sure((target + 1) % 3), target, [1, 2]).item() > 0.99


def test_each_roi_counts_the_same_whatever_its_foreground():
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0] = 1  # all of it
    target[1, 0, 0] = 1  # one pixel
    missed_large = sure(torch.stack([torch.zeros_like(target[0]), target[1]]))
    assert loss(missed_large, target, smooth=1e-6).item() == pytest.approx(0.5, abs=1e-4)
    missed_small = sure(torch.stack([target[0], torch.zeros_like(target[1])]))
    assert loss(missed_small, target, smooth=1e-6).item() == pytest.approx(0.5, abs=1e-4)


def test_a_class_the_decoder_lacks_is_left_out():
    logits, target = example(classes=2)
    assert loss(logits, target, [1, 2]).item() == loss(logits, target, [1]).item()


def test_only_classes_the_decoder_lacks_give_zero_with_zero_gradients():
    logits, target = example(classes=2)
    got = loss(logits.requires_grad_(), target, [2])
    got.backward()
    assert got.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
