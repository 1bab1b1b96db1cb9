from __future__ import annotations

import math

import pytest
import torch
from helpers.losses import counted, example, measure, random_emphasis, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy


def naive(logits, target, gamma=2.0, weights=None, emphasis=None):
    """sum(e w[y] (1 - p)^gamma -log p) / sum(e w[y]), in Python floats."""
    total = mass = 0.0
    for r, pixels in enumerate(counted(target, emphasis)):
        for y, x, label, weight in pixels:
            p = softmax(logits, r, y, x)[label]
            weight *= 1.0 if weights is None else weights[label]
            total += weight * (1 - p) ** gamma * -math.log(p)
            mass += weight
    return total / mass if mass else 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0], [0.0, 1.0, 2.0]])
@pytest.mark.parametrize("emphasised", [False, True])
def test_equals_the_definition(gamma, weights, emphasised):
    logits, target = example(ignored=0.3)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(FocalCrossEntropy(gamma), logits, target, weights, emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(logits, target, gamma, weights, emphasis), rel=1e-6)


@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
    st.floats(0, 4),
)
@settings(max_examples=30)
def test_equals_the_definition_for_any_shape(seed, classes, rois, height, width, ignored, gamma):
    logits, target = example(rois, classes, (height, width), seed, ignored)
    got = measure(FocalCrossEntropy(gamma), logits, target)
    assert got.item() == pytest.approx(naive(logits, target, gamma), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
def test_gamma_zero_is_cross_entropy(weights):
    logits, target = example()
    torch.testing.assert_close(
        measure(FocalCrossEntropy(0), logits, target, weights),
        measure(CrossEntropy(), logits, target, weights),
    )


def test_sure_pixels_are_played_down():
    """The ratio to cross-entropy is (1 - p)^gamma: 1/100 for p = 0.9 and gamma 2."""
    logits = torch.tensor([0.0, math.log(9.0)], dtype=torch.float64).reshape(1, 2, 1, 1)  # p = 0.9
    for label, ratio in ((1, 0.01), (0, 0.81)):
        target = torch.tensor([[[label]]])
        focal = measure(FocalCrossEntropy(2), logits, target).item()
        assert focal == pytest.approx(ratio * measure(CrossEntropy(), logits, target).item(), rel=1e-9)


def test_alpha_stands_in_for_class_weights():
    logits, target = example()
    alpha = [0.2, 2.0, 0.7]
    got = measure(FocalCrossEntropy(2, alpha), logits, target, [9.0, 1.0, 5.0])
    assert got.item() == pytest.approx(naive(logits, target, 2, alpha), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_that_are_quite_right_have_a_finite_gradient(gamma, dtype):
    logits = torch.tensor([0.0, 200.0], dtype=dtype).reshape(1, 2, 1, 1).requires_grad_()
    got = measure(FocalCrossEntropy(gamma), logits, torch.tensor([[[1]]]))
    got.backward()
    assert got.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("alpha", [[1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0]])
def test_alpha_of_another_length_is_a_user_error(alpha):
    logits, target = example()
    with pytest.raises(UserError, match=rf"alpha of the focal term has {len(alpha)} numbers, the decoder 3"):
        measure(FocalCrossEntropy(2, alpha), logits, target)


@pytest.mark.parametrize("alpha", [[], [0.0, 0.0, 0.0]])
def test_impossible_alphas_are_user_errors(alpha):
    with pytest.raises(UserError, match="alpha of the focal term"):
        FocalCrossEntropy(2, alpha)
