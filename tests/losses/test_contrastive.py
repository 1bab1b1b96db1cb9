from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.losses import counted, mean, random_emphasis
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput
from roiseg.losses.contrastive import Contrastive


def unit(vector):
    norm = max(math.sqrt(sum(v * v for v in vector)), 1e-3)
    return [v / norm for v in vector]


def naive(embeddings, target, pull_margin=0.2, push_margin=1.0, negatives=(2,), emphasis=None):
    """Pull and push, each the mean over the ROIs that have it of means over pixels, in Python floats."""
    pulls, pushes = [], []
    for r, pixels in enumerate(counted(target, emphasis)):
        named = [(unit(embeddings[r, :, y, x].tolist()), label, w) for y, x, label, w in pixels if w > 0]
        targets = [(v, w) for v, label, w in named if label == 1]
        if not targets:
            continue
        center = unit([sum(w * v[i] for v, w in targets) for i in range(embeddings.shape[1])])
        pull = sum(w * max(0.0, math.dist(v, center) - pull_margin) ** 2 for v, w in targets)
        pulls.append(pull / sum(w for _, w in targets))
        others = [(v, w) for v, label, w in named if label in negatives]
        if others:
            push = sum(w * max(0.0, push_margin - math.dist(v, center)) ** 2 for v, w in others)
            pushes.append(push / sum(w for _, w in others))
    return mean(pulls) + mean(pushes)


def example(rois=3, width=4, classes=3, size=(5, 4), seed=0, ignored=0.2):
    rng = np.random.default_rng(seed)
    embeddings = torch.from_numpy(rng.normal(0.4, 1, (rois, width, *size)))
    target = rng.integers(0, classes, (rois, *size))
    target[rng.uniform(size=target.shape) < ignored] = IGNORE
    return embeddings, torch.from_numpy(target)


def measure(term, embeddings, target, emphasis=None, classes=3):
    logits = torch.zeros(len(target), classes, *target.shape[1:])
    if embeddings.dtype == torch.float64:
        logits = logits.double()
    return term(LossInput(logits, target, None, {"embeddings": embeddings}, emphasis))


def two_groups(angle):
    """One ROI: the left half target, the right half non-target, `angle` between their embeddings."""
    target = torch.ones(1, 4, 6, dtype=torch.long)
    target[:, :, 3:] = 2
    embeddings = torch.zeros(1, 2, 4, 6, dtype=torch.float64)
    embeddings[0, 0, :, :3] = 7.0
    embeddings[0, 0, :, 3:] = 0.3 * math.cos(angle)
    embeddings[0, 1, :, 3:] = 0.3 * math.sin(angle)
    return embeddings, target


@pytest.mark.parametrize("margins", [(0.2, 1.0), (0.0, 2.0), (0.5, 1.5)])
@pytest.mark.parametrize("negatives", [(2,), (0,), (0, 2)])
@pytest.mark.parametrize("emphasised", [False, True])
def test_equals_the_definition(margins, negatives, emphasised):
    embeddings, target = example(ignored=0.3)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(Contrastive(*margins, negatives), embeddings, target, emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(embeddings, target, *margins, negatives, emphasis), rel=1e-6)


@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.floats(0, 1),
)
@settings(max_examples=30)
def test_equals_the_definition_for_any_shape(seed, width, rois, height, columns, ignored):
    embeddings, target = example(rois, width, 3, (height, columns), seed, ignored)
    got = measure(Contrastive(), embeddings, target)
    assert got.item() == pytest.approx(naive(embeddings, target), rel=1e-5)  # distances are 1e-6 or more


@pytest.mark.parametrize("margins", [(0.2, 1.0), (0.0, 2.0)])
def test_gradient_is_the_numeric_one(margins):
    embeddings, target = example(rois=2, size=(3, 3))
    term = Contrastive(*margins)
    assert torch.autograd.gradcheck(lambda e: measure(term, e, target), embeddings.requires_grad_())


@pytest.mark.parametrize("degrees", [0, 20, 45, 59])
def test_two_tight_groups_cost_the_square_of_what_they_lack_to_the_margin(degrees):
    angle = math.radians(degrees)
    got = measure(Contrastive(), *two_groups(angle))
    assert got.item() == pytest.approx((1 - 2 * math.sin(angle / 2)) ** 2, abs=1e-4)


@pytest.mark.parametrize("degrees", [61, 90, 180])
def test_groups_beyond_the_margin_cost_nothing(degrees):
    assert measure(Contrastive(), *two_groups(math.radians(degrees))).item() == 0


def test_length_of_embeddings_does_not_matter():
    embeddings, target = example()
    lengths = torch.rand(3, 1, 5, 4, dtype=torch.float64) * 9 + 1
    torch.testing.assert_close(
        measure(Contrastive(), embeddings * lengths, target), measure(Contrastive(), embeddings, target)
    )


def test_descent_separates_target_from_non_target():
    embeddings, target = example(ignored=0)
    embeddings.requires_grad_()
    optimizer = torch.optim.Adam([embeddings], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        measure(Contrastive(), embeddings, target).backward()
        optimizer.step()
    directions = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    for labels, vectors in zip(target, directions, strict=True):
        center = torch.nn.functional.normalize(vectors[:, labels == 1].mean(1), dim=0)[:, None]
        assert (vectors[:, labels == 1] - center).norm(dim=0).max() < 0.3
        assert (vectors[:, labels == 2] - center).norm(dim=0).min() > 0.9


def test_a_roi_without_negatives_only_pulls():
    embeddings, target = example(rois=1)
    target[target == 2] = 0
    got = measure(Contrastive(), embeddings, target)
    assert got.item() == pytest.approx(naive(embeddings, target), rel=1e-6)
    assert got.item() > 0


def test_a_roi_without_target_has_no_say():
    embeddings, target = example(rois=2)
    target[1] = 2
    torch.testing.assert_close(
        measure(Contrastive(), embeddings, target), measure(Contrastive(), embeddings[:1], target[:1])
    )


@pytest.mark.parametrize("label", [0, 2, IGNORE])
@pytest.mark.parametrize("rois", [0, 2])
def test_nothing_to_pull_gives_zero_with_zero_gradients(label, rois):
    embeddings = torch.randn(rois, 4, 3, 3, requires_grad=True)
    got = measure(Contrastive(), embeddings, torch.full((rois, 3, 3), label))
    got.backward()
    assert got.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_is_zero_with_two_classes_unless_the_background_is_pushed():
    embeddings, target = example(classes=2)
    embeddings.requires_grad_()
    got = measure(Contrastive(), embeddings, target, classes=2)
    got.backward()
    assert got.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))
    pushed = measure(Contrastive(negatives=[0, 2]), embeddings, target, classes=2)
    assert pushed.item() == pytest.approx(naive(embeddings.detach(), target, negatives=(0, 2)), rel=1e-6)


def test_embeddings_of_zero_have_a_moderate_gradient():
    """ReLU makes such; brought to length 1 carelessly they would have one of 1e12."""
    embeddings, target = example()
    embeddings[:, :, ::2] = 0
    embeddings.requires_grad_()
    measure(Contrastive(), embeddings, target).backward()
    assert embeddings.grad.abs().max() < 1e3


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_computed_in_float32_for_lower_precisions(dtype, scale):
    embeddings, target = example()
    embeddings = (embeddings * scale).to(dtype)
    got = measure(Contrastive(), embeddings, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(naive(embeddings.double(), target), rel=1e-3)


@pytest.mark.parametrize("margins", [(-0.1, 1.0), (1.0, 1.0), (1.2, 1.0), (0.1, 2.1)])
def test_impossible_margins_are_user_errors(margins):
    with pytest.raises(UserError, match="margins of the contrastive term"):
        Contrastive(*margins)
