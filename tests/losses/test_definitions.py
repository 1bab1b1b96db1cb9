"""Every loss term against its definition in numpy."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.losses import example, mean, measure, pixels_of, random_emphasis
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.common.classes import IGNORE
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance, outline_distances
from roiseg.losses.contrastive import Contrastive
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax


def cross_entropy(logits, target, weights, emphasis, smoothing=0.0, emphasise=lambda label, places: 1.0):
    weights = np.array(weights or [1.0] * logits.shape[1])
    total = mass = 0.0
    for p, label, w, places in pixels_of(logits, target, emphasis):
        w = w * emphasise(label, places)
        wanted = (1 - smoothing) * np.eye(len(p))[:, label] + smoothing / len(p)
        total += (w * (weights[:, None] * wanted * -np.log(p)).sum(0)).sum()
        mass += (w * weights[label]).sum()
    return total / mass if mass else 0.0


def focal(logits, target, weights, emphasis, gamma):
    """sum(e w[y] (1 - p)^gamma -log p) / sum(e w[y])."""
    weights = np.array(weights or [1.0] * logits.shape[1])
    total = mass = 0.0
    for shares, label, w, _ in pixels_of(logits, target, emphasis):
        p, w = shares[label, np.arange(len(label))], w * weights[label]
        total += (w * (1 - p) ** gamma * -np.log(p)).sum()
        mass += w.sum()
    return total / mass if mass else 0.0


def tversky(logits, target, weights, emphasis, classes, alpha, beta, smooth):
    """Mean over ROIs and classes of 1 - (TP + s) / (TP + a FP + b FN + s)."""
    losses = []
    for shares, label, w, _ in pixels_of(logits, target, emphasis):
        for k in (k for k in classes if k < len(shares)):
            p, true = shares[k], label == k
            hit, wrong, missed = (w * p * true).sum(), (w * p * ~true).sum(), (w * (1 - p) * true).sum()
            losses.append(1 - (hit + smooth) / (hit + alpha * wrong + beta * missed + smooth))
    return mean(losses)


def dice(logits, target, weights, emphasis, classes=(1,), smooth=1.0):
    """1 - (2 sum pg + s) / (sum p + sum g + s): with sum p = TP + FP, sum g = TP + FN, a case of Tversky's."""
    return tversky(logits, target, weights, emphasis, classes, 0.5, 0.5, smooth / 2)


def bce_dice(logits, target, weights, emphasis, bce_weight=1.0, dice_weight=1.0, squared=False, smooth=1.0):
    """Weighted sum of BCE over all pixels and Dice over ROIs, of the target's probability."""
    total = mass = 0.0
    losses = []
    for shares, label, w, _ in pixels_of(logits, target, emphasis):
        p, g = shares[1], label == 1
        total += (w * -np.log(np.where(g, p, 1 - p))).sum()
        mass += w.sum()
        sizes = (w * (p**2 + g if squared else p + g)).sum()
        losses.append(1 - (2 * (w * p * g).sum() + smooth) / (sizes + smooth))
    return bce_weight * (total / mass if mass else 0.0) + dice_weight * mean(losses)


def jaccard_loss(truth, mistakes):
    """1 - IoU of the mask that differs from `truth` at the indices `mistakes`."""
    predicted = truth.copy()
    predicted[mistakes] ^= True
    union = (predicted | truth).sum()
    return 1 - (predicted & truth).sum() / union if union else 0.0


def lovasz(logits, target, weights, emphasis, classes):
    """Lovász extension of `jaccard_loss`, recomputed for every prefix of the sorted pixels; mean over ROIs and classes."""
    losses = []
    for shares, label, w, _ in pixels_of(logits, target, emphasis):
        for k in (k for k in classes if k < len(shares)):
            truth = label[w > 0] == k
            errors = abs(truth - shares[k, w > 0])
            order = np.argsort(-errors, kind="stable")
            prefixes = [jaccard_loss(truth, order[:n]) for n in range(len(order) + 1)]
            if truth.any():
                losses.append((errors[order] * np.diff(prefixes)).sum())
    return mean(losses)


def distances_to_outline(label, places):
    """Distance of each pixel to the outline, or none where the ROI has none; every pair of pixels."""
    other = (label == 1)[:, None] != (label == 1)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    return np.where(other, apart, np.inf).min(axis=1) - 0.5 if other.any() else None


def boundary(logits, target, weights, emphasis):
    losses = []
    for shares, label, w, places in pixels_of(logits, target, emphasis):
        distances = distances_to_outline(label, places)
        if distances is not None and (mass := (w * distances).sum()):
            losses.append((w * distances * abs((label == 1) - shares[1])).sum() / mass)
    return mean(losses)


def boundary_edge(logits, target, weights, emphasis, radius, edge_weight):
    def emphasise(label, places):
        near = abs(places[:, None] - places).max(axis=2, initial=0) <= radius
        return 1 + edge_weight * (near & ((label == 1)[:, None] != (label == 1))).any(axis=1)

    return cross_entropy(logits, target, weights, emphasis, emphasise=emphasise)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=0).clip(1e-3)


def contrastive(embeddings, target, weights, emphasis, pull_margin=0.2, push_margin=1.0, negatives=(2,)):
    """Pull and push, each the mean over the ROIs that have it of means over pixels."""
    if min(negatives) >= embeddings.shape[1]:
        return 0.0
    pulls, pushes = [], []
    for r, (_, label, w, places) in enumerate(pixels_of(embeddings, target, emphasis)):
        vectors = unit(embeddings[r].numpy()[:, places[:, 0], places[:, 1]])
        mine, others = w * (label == 1), w * np.isin(label, negatives)
        if not mine.any():
            continue
        apart = np.linalg.norm(vectors - unit((mine * vectors).sum(1))[:, None], axis=0)
        pulls.append((mine * (apart - pull_margin).clip(0) ** 2).sum() / mine.sum())
        if others.any():
            pushes.append((others * (push_margin - apart).clip(0) ** 2).sum() / others.sum())
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
    given = logits.clone(), target.clone()
    got = measure(term, *given, weights, emphasis)
    assert got.dtype == torch.float64
    assert torch.equal(given[0], logits) and torch.equal(given[1], target)
    assert got.item() == pytest.approx(definition(logits, target, weights, emphasis), rel=1e-5, abs=1e-8)


def test_lovasz_does_not_depend_on_the_order_of_equal_errors():
    for seed in range(5):
        _, target = example(1, size=(4, 4), seed=seed, ignored=0)
        logits = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
        expected = lovasz(logits, target, None, None, (0, 1, 2))
        assert measure(LovaszSoftmax([0, 1, 2]), logits, target).item() == pytest.approx(expected, rel=1e-9)


def test_outline_distances_are_exact_on_larger_maps_and_ignored_cells_make_no_outline():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(17), indexing="ij")
    target = (((rows - 11) / 8) ** 2 + ((columns - 6) / 5) ** 2 <= 1).long()[None]
    target[0, 15:19, 9:14] = IGNORE
    ((_, label, _, places),) = pixels_of(torch.zeros(1, 3, 24, 17), target)
    got = outline_distances(target)[0].numpy()[places[:, 0], places[:, 1]]
    np.testing.assert_allclose(got, distances_to_outline(label, places), atol=1e-5)
    distances = outline_distances(torch.tensor([[[1, 1, IGNORE, IGNORE, 0]]]))[0, 0]
    assert distances[[0, 1, 4]].tolist() == [3.5, 2.5, 2.5]


def test_embeddings_of_zero_have_a_moderate_gradient():
    """ReLU makes such; brought to length 1 carelessly they would have one of 1e12."""
    embeddings, target = example()
    embeddings[:, :, ::2] = 0
    measure(Contrastive(), embeddings.requires_grad_(), target).backward()
    assert embeddings.grad.abs().max() < 1e3
