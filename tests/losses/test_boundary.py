from __future__ import annotations

import math

import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance, outline_distances
from roiseg.losses.cross_entropy import CrossEntropy


def naive_distances(target, r):
    """{(y, x): distance to the outline} of a ROI, or nothing where it has none; every pair of pixels."""
    pixels = counted(target)[r]
    inside = [(y, x) for y, x, label, _ in pixels if label == 1]
    outside = [(y, x) for y, x, label, _ in pixels if label != 1]
    if not inside or not outside:
        return {}
    sides = [(inside, outside), (outside, inside)]
    return {p: min(math.dist(p, q) for q in others) - 0.5 for mine, others in sides for p in mine}


def naive_distance_loss(logits, target, emphasis=None):
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        distances = naive_distances(target, r)
        total = mass = 0.0
        for y, x, label, weight in pixels:
            if distances:
                weight *= distances[y, x]
                total += weight * abs((label == 1) - softmax(logits, r, y, x)[1])
                mass += weight
        if mass:
            losses.append(total / mass)
    return mean(losses)


def naive_edge_loss(logits, target, radius=2, edge_weight=4.0, weights=None, emphasis=None):
    total = mass = 0.0
    for r, pixels in enumerate(counted(target, emphasis)):
        known = {(y, x): label == 1 for y, x, label, _ in pixels}
        for y, x, label, weight in pixels:
            around = {
                is_target for (v, u), is_target in known.items() if max(abs(v - y), abs(u - x)) <= radius
            }
            weight *= (1 + edge_weight * (len(around) == 2)) * (1.0 if weights is None else weights[label])
            total += weight * -math.log(softmax(logits, r, y, x)[label])
            mass += weight
    return total / mass if mass else 0.0


@pytest.mark.parametrize("ignored", [0.0, 0.4])
@pytest.mark.parametrize("emphasised", [False, True])
def test_distance_term_equals_the_definition(ignored, emphasised):
    logits, target = example(size=(7, 6), ignored=ignored)
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(BoundaryDistance(), logits, target, emphasis=emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive_distance_loss(logits, target, emphasis), rel=1e-6)


@pytest.mark.parametrize("radius", [1, 2, 3, 9])
@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
@pytest.mark.parametrize("emphasised", [False, True])
def test_edge_term_equals_the_definition(radius, weights, emphasised):
    logits, target = example(size=(7, 6), ignored=0.3)
    target[0, :, 2:] = target[0, :, 2:].where(target[0, :, 2:] != 1, 0)  # not edges everywhere
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(BoundaryCrossEntropy(radius, 3.0), logits, target, weights, emphasis)
    expected = naive_edge_loss(logits, target, radius, 3.0, weights, emphasis)
    assert got.item() == pytest.approx(expected, rel=1e-6)


@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3]),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(0, 1),
)
@settings(max_examples=30)
def test_both_equal_their_definitions_for_any_shape(seed, classes, rois, height, width, ignored):
    logits, target = example(rois, classes, (height, width), seed, ignored)
    distance = measure(BoundaryDistance(), logits, target)
    assert distance.item() == pytest.approx(naive_distance_loss(logits, target), rel=1e-6, abs=1e-9)
    edge = measure(BoundaryCrossEntropy(1), logits, target)
    assert edge.item() == pytest.approx(naive_edge_loss(logits, target, 1), rel=1e-6, abs=1e-9)


def test_outline_distances_are_exact_on_larger_maps():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(17), indexing="ij")
    target = (((rows - 11) / 8) ** 2 + ((columns - 6) / 5) ** 2 <= 1).long()[None]
    target[0, 15:19, 9:14] = IGNORE
    got = outline_distances(target)[0]
    for (y, x), distance in naive_distances(target, 0).items():
        assert got[y, x].item() == pytest.approx(distance, abs=1e-5)


def test_outline_lies_between_cells():
    target = torch.tensor([[[0, 2, 1, 1, 1]]])
    assert outline_distances(target).tolist() == [[[1.5, 0.5, 0.5, 1.5, 2.5]]]


def test_ignored_cells_make_no_outline():
    target = torch.tensor([[[1, 1, IGNORE, IGNORE, 0]]])
    distances = outline_distances(target)[0, 0]
    assert distances[[0, 1, 4]].tolist() == [3.5, 2.5, 2.5]


@pytest.mark.parametrize("label", [0, 1, 2, IGNORE])
def test_a_roi_without_an_outline_has_no_distances_and_no_say(label):
    logits, target = example(rois=2, ignored=0)
    target[1] = label
    assert not outline_distances(target)[1].any()
    torch.testing.assert_close(
        measure(BoundaryDistance(), logits, target), measure(BoundaryDistance(), logits[:1], target[:1])
    )


def test_gradient_is_the_signed_distance_of_the_source():
    """d loss / d p = phi / sum |phi|: more target is welcome inside, less of it outside."""
    target = torch.tensor([[[0, 0, 1, 1, 0]]])
    logits = torch.zeros(1, 2, 1, 5, dtype=torch.float64, requires_grad=True)  # p = 1/2, dp/dlogit = 1/4
    measure(BoundaryDistance(), logits, target).backward()
    phi = torch.tensor([1.5, 0.5, -0.5, -0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(logits.grad[0, 1, 0], phi / 3.5 / 4)


def test_mistakes_cost_more_the_further_they_are():
    target = torch.zeros(1, 9, 20, dtype=torch.long)
    target[:, :, :6] = 1
    costs = []
    for column in range(6, 20):
        predicted = target.clone()
        predicted[:, 4, column] = 1
        costs.append(measure(BoundaryDistance(), sure(predicted), target).item())
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(27 * costs[0], rel=1e-3)  # 13.5 against 0.5 cells


def test_distance_term_is_zero_if_all_is_right_and_one_if_all_is_wrong():
    target = torch.zeros(2, 12, 9, dtype=torch.long)
    target[:, 3:8, 2:6] = 1
    assert measure(BoundaryDistance(), sure(target), target).item() == pytest.approx(0, abs=1e-6)
    assert measure(BoundaryDistance(), sure(1 - target), target).item() == pytest.approx(1, abs=1e-6)


def test_distance_term_hardly_depends_on_the_grid():
    target = torch.zeros(1, 28, 28, dtype=torch.long)
    target[:, 6:20, 8:18] = 1
    predicted = target.roll(3, dims=2)
    coarse = measure(BoundaryDistance(), sure(predicted), target).item()
    finer = [m.repeat_interleave(4, 1).repeat_interleave(4, 2) for m in (predicted, target)]
    assert measure(BoundaryDistance(), sure(finer[0]), finer[1]).item() == pytest.approx(coarse, rel=0.05)


def test_only_cells_near_the_outline_count_more():
    target = torch.zeros(1, 1, 12, dtype=torch.long)
    target[..., :6] = 1  # for radius 2 cells 4 to 7 are near
    near = {4, 5, 6, 7}
    whole = 12 + 4 * len(near)
    for column in range(12):
        predicted = target.clone()
        predicted[..., column] = 1 - predicted[..., column]
        got = measure(BoundaryCrossEntropy(2, 4.0), sure(predicted, 2, 10.0), target).item()
        assert got == pytest.approx(10.0 * (5 if column in near else 1) / whole, rel=1e-2)


def test_the_non_targets_outline_is_no_outline():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, :, :4] = 2
    logits = torch.randn(1, 3, 8, 8)
    expected = measure(CrossEntropy(), logits, target)
    torch.testing.assert_close(measure(BoundaryCrossEntropy(), logits, target), expected)


def test_no_edge_weight_is_cross_entropy():
    logits, target = example()
    weights = [0.5, 3.0, 1.0]
    torch.testing.assert_close(
        measure(BoundaryCrossEntropy(1, 0.0), logits, target, weights),
        measure(CrossEntropy(), logits, target, weights),
    )
