"""Every loss term against its definition, in loops over pixels and Python floats, and by hand."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax, sure
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance, outline_distances
from roiseg.losses.contrastive import Contrastive
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax

# --- definitions: functions of logits, target, class weights and emphasis -------------------------


def cross_entropy(logits, target, weights, emphasis, smoothing=0.0, emphasise=lambda pixels, y, x: 1.0):
    total = mass = 0.0
    for r, pixels in enumerate(counted(target, emphasis)):
        for y, x, label, weight in pixels:
            weight *= emphasise(pixels, y, x)
            for c, p in enumerate(softmax(logits, r, y, x)):
                wanted = (1 - smoothing) * (c == label) + smoothing / logits.shape[1]
                total += weight * wanted * (1.0 if weights is None else weights[c]) * -math.log(p)
            mass += weight * (1.0 if weights is None else weights[label])
    return total / mass if mass else 0.0


def focal(logits, target, weights, emphasis, gamma):
    """sum(e w[y] (1 - p)^gamma -log p) / sum(e w[y])."""
    total = mass = 0.0
    for r, pixels in enumerate(counted(target, emphasis)):
        for y, x, label, weight in pixels:
            p = softmax(logits, r, y, x)[label]
            weight *= 1.0 if weights is None else weights[label]
            total += weight * (1 - p) ** gamma * -math.log(p)
            mass += weight
    return total / mass if mass else 0.0


def tversky(logits, target, weights, emphasis, classes, alpha, beta, smooth):
    """Mean over ROIs and classes of 1 - (TP + s) / (TP + a FP + b FN + s)."""
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        for k in (k for k in classes if k < logits.shape[1]):
            hit = wrong = missed = 0.0
            for y, x, label, weight in pixels:
                p = softmax(logits, r, y, x)[k]
                hit += weight * p * (label == k)
                missed += weight * (1 - p) * (label == k)
                wrong += weight * p * (label != k)
            losses.append(1 - (hit + smooth) / (hit + alpha * wrong + beta * missed + smooth))
    return mean(losses)


def dice(logits, target, weights, emphasis, classes=(1,), smooth=1.0):
    """Mean over ROIs and classes of 1 - (2 sum pg + s) / (sum p + sum g + s)."""
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        for k in (k for k in classes if k < logits.shape[1]):
            terms = [(w, softmax(logits, r, y, x)[k], label == k) for y, x, label, w in pixels]
            both, sizes = sum(w * p * g for w, p, g in terms), sum(w * (p + g) for w, p, g in terms)
            losses.append(1 - (2 * both + smooth) / (sizes + smooth))
    return mean(losses)


def bce_dice(logits, target, weights, emphasis, bce_weight=1.0, dice_weight=1.0, squared=False, smooth=1.0):
    """Weighted sum of BCE over all pixels and Dice over ROIs, of the target's probability."""
    total = mass = 0.0
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        both = sizes = 0.0
        for y, x, label, weight in pixels:
            p, g = softmax(logits, r, y, x)[1], float(label == 1)
            total += weight * -math.log(p if g else 1 - p)
            mass += weight
            both += weight * p * g
            sizes += weight * (p * p + g * g if squared else p + g)
        losses.append(1 - (2 * both + smooth) / (sizes + smooth))
    return bce_weight * (total / mass if mass else 0.0) + dice_weight * mean(losses)


def jaccard_loss(truth, mistakes):
    """1 - IoU of the mask that differs from `truth` in the set of indices `mistakes`."""
    predicted = {i for i, t in enumerate(truth) if t != (i in mistakes)}
    true = {i for i, t in enumerate(truth) if t}
    union = predicted | true
    return 1 - len(predicted & true) / len(union) if union else 0.0


def lovasz(logits, target, weights, emphasis, classes):
    """Lovász extension of `jaccard_loss`, every prefix of the sorted pixels anew; mean over ROIs and classes."""
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        pixels = [pixel for pixel in pixels if pixel[3] > 0]
        for k in (k for k in classes if k < logits.shape[1]):
            truth = [label == k for _, _, label, _ in pixels]
            errors = [abs((label == k) - softmax(logits, r, y, x)[k]) for y, x, label, _ in pixels]
            order = sorted(range(len(errors)), key=lambda i: -errors[i])
            prefixes = [jaccard_loss(truth, set(order[:n])) for n in range(len(order) + 1)]
            if any(truth):
                losses.append(sum(errors[i] * (prefixes[n + 1] - prefixes[n]) for n, i in enumerate(order)))
    return mean(losses)


def distances_to_outline(target, r):
    """{(y, x): distance to the outline} of a ROI, or nothing where it has none; every pair of pixels."""
    pixels = counted(target)[r]
    inside = [(y, x) for y, x, label, _ in pixels if label == 1]
    outside = [(y, x) for y, x, label, _ in pixels if label != 1]
    if not inside or not outside:
        return {}
    sides = [(inside, outside), (outside, inside)]
    return {p: min(math.dist(p, q) for q in others) - 0.5 for mine, others in sides for p in mine}


def boundary(logits, target, weights, emphasis):
    losses = []
    for r, pixels in enumerate(counted(target, emphasis)):
        distances = distances_to_outline(target, r)
        weighted = [(w * distances[y, x], y, x, label) for y, x, label, w in pixels if distances]
        if mass := sum(w for w, *_ in weighted):
            wrong = (w * abs((label == 1) - softmax(logits, r, y, x)[1]) for w, y, x, label in weighted)
            losses.append(sum(wrong) / mass)
    return mean(losses)


def boundary_edge(logits, target, weights, emphasis, radius, edge_weight):
    def emphasise(pixels, y, x):
        near = [label for v, u, label, _ in pixels if max(abs(v - y), abs(u - x)) <= radius]
        return 1 + edge_weight * (len({label == 1 for label in near}) == 2)

    return cross_entropy(logits, target, weights, emphasis, emphasise=emphasise)


def unit(vector):
    norm = max(math.sqrt(sum(v * v for v in vector)), 1e-3)
    return [v / norm for v in vector]


def contrastive(embeddings, target, weights, emphasis, pull_margin=0.2, push_margin=1.0, negatives=(2,)):
    """Pull and push, each the mean over the ROIs that have it of means over pixels."""
    if min(negatives) >= embeddings.shape[1]:
        return 0.0
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


def pair(term, definition, *options):
    return term(*options), partial(definition, **dict(zip(definition.__code__.co_varnames[4:], options)))  # noqa: B905


PAIRS = [
    (CrossEntropy(0.1), partial(cross_entropy, smoothing=0.1)),
    (CrossEntropy(), cross_entropy),
    *(pair(FocalCrossEntropy, focal, gamma) for gamma in (0.0, 0.5, 2.0)),
    *(pair(Dice, dice, *options) for options in (((1,), 1.0), ((2, 0, 1), 1e-3))),
    *(
        pair(Tversky, tversky, *options)
        for options in (((1,), 0.3, 0.7, 1.0), ((1, 2), 1.0, 0.0, 1e-3), ((0, 2), 0.0, 2.0, 1.0))
    ),
    *(pair(LovaszSoftmax, lovasz, classes) for classes in ((1,), (0, 1, 2))),
    *(
        pair(BceDice, bce_dice, *options)
        for options in ((), (0.0, 2.0, True, 1e-5), (0.5, 0.0), (0.5, 0.2, True))
    ),
    (BoundaryDistance(), boundary),
    *(pair(BoundaryCrossEntropy, boundary_edge, *options) for options in ((1, 4.0), (2, 3.0), (9, 0.0))),
    *(pair(Contrastive, contrastive, *options) for options in ((), (0.0, 2.0, (0,)), (0.5, 1.5, (0, 2)))),
]


@pytest.mark.parametrize(("term", "definition"), PAIRS)
@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3]),
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0, 1),
    st.sampled_from([None, [0.5, 3.0, 1.0], [0.0, 1.0, 2.0]]),
    st.booleans(),
)
@settings(max_examples=25)
def test_equals_the_definition(
    term, definition, seed, classes, rois, height, width, ignored, weights, emphasised
):
    logits, target = example(rois, classes, (height, width), seed, ignored)
    weights = weights and weights[:classes]
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(term, logits, target, weights, emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(definition(logits, target, weights, emphasis), rel=1e-5, abs=1e-8)


# --- by hand --------------------------------------------------------------------------------------

HALF, LOG2 = [0.5] * 4, math.log(2)


@pytest.mark.parametrize(
    ("term", "probability", "target", "expected"),
    [
        (CrossEntropy(), [0.75], [1], -math.log(0.75)),
        (FocalCrossEntropy(2), [0.9], [1], 0.01 * -math.log(0.9)),
        (FocalCrossEntropy(2), [0.9], [0], 0.81 * -math.log(0.1)),
        (Dice(), HALF, [1, 0, 0, 0], 0.5),
        (Dice(), [0.75], [1], 1 - (1.5 + 1) / (1.75 + 1)),
        (Dice(), [1e-9] * 4, [0] * 4, 0),  # nothing there, nothing predicted
        (Dice(), [1 - 1e-9] * 4, [0] * 4, 1 - 1 / (4 + 1)),
        (Tversky([1], 1.0, 1.0, 1e-9), [1e-9, 1, 1, 1], [1, 1, 0, 0], 0.75),  # 1 - IoU
        (Tversky([1], 0.3, 0.7, 1e-9), [1, 1, 1, 1e-9], [1, 1, 0, 0], 1 - 2 / (2 + 0.3)),  # a wrong one
        (Tversky([1], 0.3, 0.7, 1e-9), [1, 1e-9, 1e-9, 1e-9], [1, 1, 0, 0], 1 - 1 / (1 + 0.7)),  # a missed one
        (BceDice(0.0, 1.0, True, 1e-9), HALF, [1, 0, 0, 0], 1 - 1 / (4 * 0.25 + 1)),
        (BceDice(1.0, 0.0), HALF, [1, 0, 0, 0], LOG2),
        (BoundaryDistance(), [1, 1, 1, 1, 1], [0, 2, 1, 1, 1], (1.5 + 0.5) / (1.5 + 0.5 + 0.5 + 1.5 + 2.5)),
        (BoundaryDistance(), [1, 1, 1e-9, 1e-9], [0, 0, 1, 1], 1),  # all wrong
        (BoundaryCrossEntropy(1, 4.0), [0.5, 0.5, 0.25, 0.5], [1, 1, 1, 0], (1 + 1 + 5 * 2 + 5) * LOG2 / 12),
    ],
)  # fmt: skip
def test_equals_what_is_computed_by_hand(term, probability, target, expected):
    p = torch.tensor(probability, dtype=torch.float64).clamp(max=1 - 1e-12)
    logits = torch.stack([(1 - p).log(), p.log()])[None, :, None]
    got = measure(term, logits, torch.tensor([[target]]))
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_lovasz_is_one_minus_iou_for_every_mask_of_zeros_and_ones():
    for bits in itertools.product([0, 1], repeat=6):
        target = torch.tensor([1, 1, 0, 0, 1, 0]).reshape(1, 2, 3)
        predicted = torch.tensor(bits).reshape(1, 2, 3)
        both = int(((predicted == 1) & (target == 1)).sum())
        either = int(((predicted == 1) | (target == 1)).sum())
        got = measure(LovaszSoftmax(), sure(predicted, 2, 100.0), target)
        assert got.item() == pytest.approx(1 - both / either, abs=1e-6)


def test_lovasz_does_not_depend_on_the_order_of_equal_errors():
    for seed in range(5):
        _, target = example(1, size=(4, 4), seed=seed, ignored=0)
        logits = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
        expected = lovasz(logits, target, None, None, (0, 1, 2))
        assert measure(LovaszSoftmax([0, 1, 2]), logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_alpha_of_the_focal_term_stands_in_for_class_weights():
    logits, target = example()
    got = measure(FocalCrossEntropy(2, [0.2, 2.0, 0.7]), logits, target, [9.0, 1.0, 5.0])
    torch.testing.assert_close(got, measure(FocalCrossEntropy(2), logits, target, [0.2, 2.0, 0.7]))


def test_the_instance_logit_is_the_log_odds_of_the_targets_probability():
    logits, target = example()
    p = logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(LossInput(logits, target).instance_logits, torch.log(p / (1 - p)))


# --- outlines -------------------------------------------------------------------------------------


def test_outline_distances_are_exact_on_larger_maps():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(17), indexing="ij")
    target = (((rows - 11) / 8) ** 2 + ((columns - 6) / 5) ** 2 <= 1).long()[None]
    target[0, 15:19, 9:14] = IGNORE
    got = outline_distances(target)[0]
    for (y, x), distance in distances_to_outline(target, 0).items():
        assert got[y, x].item() == pytest.approx(distance, abs=1e-5)


def test_ignored_cells_make_no_outline():
    distances = outline_distances(torch.tensor([[[1, 1, IGNORE, IGNORE, 0]]]))[0, 0]
    assert distances[[0, 1, 4]].tolist() == [3.5, 2.5, 2.5]


def test_gradient_is_the_signed_distance_of_the_source():
    """d loss / d p = phi / sum |phi|: more target is welcome inside, less of it outside."""
    target = torch.tensor([[[0, 0, 1, 1, 0]]])
    logits = torch.zeros(1, 2, 1, 5, dtype=torch.float64, requires_grad=True)  # p = 1/2, dp/dlogit = 1/4
    measure(BoundaryDistance(), logits, target).backward()
    phi = torch.tensor([1.5, 0.5, -0.5, -0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(logits.grad[0, 1, 0], phi / 3.5 / 4)


# --- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 20, 45, 59, 61, 90, 180])
def test_two_tight_groups_cost_the_square_of_what_they_lack_to_the_margin(degrees):
    """The left half target, the right half non-target, whatever the length of their embeddings."""
    angle = math.radians(degrees)
    target = torch.ones(1, 4, 6, dtype=torch.long)
    target[:, :, 3:] = 2
    embeddings = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    embeddings[0, 0, :, :3] = 7.0
    embeddings[0, 0, :, 3:], embeddings[0, 1, :, 3:] = 0.3 * math.cos(angle), 0.3 * math.sin(angle)
    expected = max(0.0, 1 - 2 * math.sin(angle / 2)) ** 2
    assert measure(Contrastive(), embeddings, target).item() == pytest.approx(expected, abs=1e-4)


def test_embeddings_of_zero_have_a_moderate_gradient():
    """ReLU makes such; brought to length 1 carelessly they would have one of 1e12."""
    embeddings, target = example()
    embeddings[:, :, ::2] = 0
    measure(Contrastive(), embeddings.requires_grad_(), target).backward()
    assert embeddings.grad.abs().max() < 1e3


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_of_any_length_are_measured_in_float32(dtype, scale):
    rng = np.random.default_rng(0)
    _, target = example()
    embeddings = torch.from_numpy(rng.normal(0.4, 1, (3, 3, 5, 4)) * scale).to(dtype)
    got = measure(Contrastive(), embeddings, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(contrastive(embeddings.double(), target, None, None), rel=1e-3)
