"""Every loss term against its definition, in loops over pixels and Python floats."""

import math
from functools import partial

import pytest
import torch
from helpers.losses import counted, example, mean, measure, random_emphasis, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance, outline_distances
from roiseg.losses.contrastive import Contrastive
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax


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
    """1 - (2 sum pg + s) / (sum p + sum g + s): with sum p = TP + FP, sum g = TP + FN, a case of Tversky's."""
    return tversky(logits, target, weights, emphasis, classes, 0.5, 0.5, smooth / 2)


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


TVERSKY = [((1,), 0.3, 0.7, 1.0), ((1, 2), 1.0, 0.0, 1e-3), ((0, 2), 0.0, 2.0, 1.0)]
PAIRS = [
    (CrossEntropy(0.1), partial(cross_entropy, smoothing=0.1)),
    (CrossEntropy(), cross_entropy),
    *(pair(FocalCrossEntropy, focal, gamma) for gamma in (0.0, 0.5, 2.0)),
    *(pair(Dice, dice, *options) for options in (((1,), 1.0), ((2, 0, 1), 1e-3))),
    *(pair(Tversky, tversky, *options) for options in TVERSKY),
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
    shape=st.tuples(st.integers(0, 3), st.sampled_from([2, 3]), st.tuples(st.integers(1, 5), st.integers(1, 5))),
    seed=st.integers(0, 10**6), ignored=st.floats(0, 1), emphasised=st.booleans(),
    weights=st.sampled_from([None, [0.5, 3.0, 1.0], [0.0, 1.0, 2.0]]),
)  # fmt: skip
@settings(max_examples=25)
def test_equals_the_definition(term, definition, shape, seed, ignored, emphasised, weights):
    logits, target = example(*shape, seed, ignored)
    weights = weights and weights[: logits.shape[1]]
    emphasis = random_emphasis(target) if emphasised else None
    got = measure(term, logits, target, weights, emphasis)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(definition(logits, target, weights, emphasis), rel=1e-5, abs=1e-8)


def test_lovasz_does_not_depend_on_the_order_of_equal_errors():
    for seed in range(5):
        _, target = example(1, size=(4, 4), seed=seed, ignored=0)
        logits = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
        expected = lovasz(logits, target, None, None, (0, 1, 2))
        assert measure(LovaszSoftmax([0, 1, 2]), logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_the_instance_logit_is_the_log_odds_of_the_targets_probability():
    logits, target = example()
    p = logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(LossInput(logits, target).instance_logits, torch.log(p / (1 - p)))


def test_outline_distances_are_exact_on_larger_maps_and_ignored_cells_make_no_outline():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(17), indexing="ij")
    target = (((rows - 11) / 8) ** 2 + ((columns - 6) / 5) ** 2 <= 1).long()[None]
    target[0, 15:19, 9:14] = IGNORE
    got = outline_distances(target)[0]
    for (y, x), distance in distances_to_outline(target, 0).items():
        assert got[y, x].item() == pytest.approx(distance, abs=1e-5)
    distances = outline_distances(torch.tensor([[[1, 1, IGNORE, IGNORE, 0]]]))[0, 0]
    assert distances[[0, 1, 4]].tolist() == [3.5, 2.5, 2.5]


def test_embeddings_of_zero_have_a_moderate_gradient():
    """ReLU makes such; brought to length 1 carelessly they would have one of 1e12."""
    embeddings, target = example()
    embeddings[:, :, ::2] = 0
    measure(Contrastive(), embeddings.requires_grad_(), target).backward()
    assert embeddings.grad.abs().max() < 1e3
