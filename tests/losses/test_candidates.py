import numpy as np
import pytest
import torch

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.losses.base import LossInput
from roiseg.losses.boundary import BoundaryCrossEntropy, BoundaryDistance
from roiseg.losses.cross_entropy import CrossEntropy, FocalCrossEntropy
from roiseg.losses.deep_supervision import DeepSupervision, PointCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax
from roiseg.losses.multimask import IouScore, MultimaskMinimum

TERMS = [CrossEntropy(0.1), Dice([1, 2]), FocalCrossEntropy(), Tversky(), LovaszSoftmax(), BceDice(),
         BoundaryCrossEntropy()]  # fmt: skip


def example(rois=4, masks=3, classes=3, size=(5, 4), seed=0, ignored=0.2):
    """Candidates [R, M, K, h, w] in float64 and a target."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (rois, *size))
    target[rng.uniform(size=target.shape) < ignored] = IGNORE
    return torch.from_numpy(rng.normal(0, 3, (rois, masks, classes, *size))), torch.from_numpy(target)


def given(candidates, target, iou=None, class_weights=None, emphasis=None):
    """What a loss gets; the logits are not those of a candidate."""
    iou = torch.zeros(candidates.shape[:2], dtype=candidates.dtype) if iou is None else iou
    known = {"candidates": candidates, "iou": iou, "other": torch.zeros(1)}
    return LossInput(torch.zeros_like(candidates[:, 0]), target, class_weights, known, emphasis)


def minimum(**terms):
    return MultimaskMinimum({name: {"weight": w, "term": term} for name, (w, term) in terms.items()})


def alone(terms, inputs, r, m):
    """The weighted sum on one candidate of one ROI."""
    emphasis = None if inputs.emphasis is None else inputs.emphasis[r : r + 1]
    logits, target = inputs.auxiliary["candidates"][r, m][None], inputs.target[r : r + 1]
    one = LossInput(logits, target, inputs.class_weights, {}, emphasis)
    return sum(weight * term(one).item() for weight, term in terms)


@pytest.mark.parametrize("emphasised", [False, True])
@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_the_cost_of_a_candidate_is_its_loss_were_it_alone(term, emphasised):
    candidates, target = example()
    target[2] = IGNORE
    emphasis = torch.rand(target.shape, dtype=torch.float64) if emphasised else None
    inputs = given(candidates, target, class_weights=torch.tensor([1.0, 3.0, 2.0]), emphasis=emphasis)
    costs = minimum(one=(2.0, term)).costs(inputs)
    expected = [[alone([(2.0, term)], inputs, r, m) for m in range(3)] for r in range(4)]
    torch.testing.assert_close(costs, torch.tensor(expected, dtype=costs.dtype))


@pytest.mark.parametrize("weights", [(20.0, 1.0), (1.0, 5.0)])
def test_is_the_mean_over_rois_of_the_smallest_weighted_sum(weights):
    """Without ignored pixels each term is a mean over ROIs, and so is the sum of the minima."""
    candidates, target = example(rois=6, ignored=0)
    inputs = given(candidates, target)
    terms = list(zip(weights, (FocalCrossEntropy(), Dice()), strict=True))
    got = minimum(focal=terms[0], dice=terms[1])(inputs)
    smallest = [min(alone(terms, inputs, r, m) for m in range(3)) for r in range(6)]
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(sum(smallest) / 6, rel=1e-9)


BOTH = [minimum(focal=(20.0, FocalCrossEntropy()), dice=(1.0, Dice())), IouScore(), IouScore(squared=True)]
both = pytest.mark.parametrize("loss", BOTH, ids=["minimum", "iou", "iou-squared"])


def slopes(loss, candidates, target, iou):
    """The value and the gradients in candidates and scores, all finite."""
    known = candidates.requires_grad_(), iou.requires_grad_()
    got = loss(given(known[0], target, known[1]))
    got.backward()
    gradients = [value.grad for value in known if value.grad is not None]
    assert all(torch.isfinite(value).all() for value in (got, *gradients))
    return got, gradients


@both
@pytest.mark.parametrize("rois", [0, 2])
def test_no_pixel_that_counts_gives_zero_with_zero_gradients(loss, rois):
    nothing = torch.full((rois, 4, 4), IGNORE)
    got, gradients = slopes(loss, torch.randn(rois, 3, 3, 4, 4), nothing, torch.rand(rois, 3))
    assert got.item() == 0
    assert not any(gradient.any() for gradient in gradients)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_huge_logits_stay_finite(loss, dtype):
    target = torch.tensor([[[0, 1], [2, 1]]])
    right = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) * 2.0 - 1
    for scale in (1e4, -1e4):
        candidates = (torch.stack([right, right], dim=1) * scale).to(dtype)
        got, _ = slopes(loss, candidates, target, torch.full((1, 2), 0.5, dtype=dtype))
        assert got.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize(("terms", "message"), [
    ({}, "terms of the candidates term: weights"),
    ({"dice": {"weight": 0.0, "term": Dice()}}, "terms of the candidates term: weights"),
    ({"dice": {"weight": 1.0, "term": Dice(), "from_epoch": 3}}, "dice of the candidates term"),
    ({"dice": {"term": Dice()}}, "dice of the candidates term"),
    ({"late": {"weight": 1.0, "term": PointCrossEntropy()}}, "late of the candidates term reads `points`"),
    ({"late": {"weight": 1.0, "term": DeepSupervision(Dice())}}, "late of the candidates term reads `first`"),
])  # fmt: skip
def test_impossible_terms_are_user_errors(terms, message):
    with pytest.raises(UserError, match=message) as error:
        MultimaskMinimum(terms)
    assert "\n" not in str(error.value)


def test_a_term_that_cannot_be_computed_is_a_user_error_that_names_it():
    for term, message in (
        (BoundaryDistance(), "loss: far of the candidates term"),  # leaves torch
        (FocalCrossEntropy(alpha=[1, 1, 1]), "alpha of the focal term has 3 numbers"),
    ):
        with pytest.raises(UserError, match=message) as error:
            minimum(dice=(1.0, Dice()), far=(1.0, term))(given(*example(classes=2)))
        assert "\n" not in str(error.value)


def naive_iou(logits, target, emphasis=None):
    """IoU of one candidate [K, h, w]."""
    weight = np.ones(target.shape) if emphasis is None else emphasis.numpy()
    drawn, true = logits.numpy().argmax(axis=0) == 1, target.numpy() == 1
    counts = target.numpy() != IGNORE
    return weight[drawn & true & counts].sum() / weight[(drawn | true) & counts].sum()


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("emphasised", [False, True])
def test_score_is_measured_against_the_iou_of_each_candidate(squared, classes, emphasised):
    candidates, target = example(classes=classes)
    target[1] = IGNORE  # has no IoU: left out
    iou = torch.rand(4, 3, dtype=torch.float64)
    emphasis = torch.rand(target.shape, dtype=torch.float64) if emphasised else None
    errors = []
    for r in (0, 2, 3):
        for m in range(3):
            true = naive_iou(candidates[r, m], target[r], None if emphasis is None else emphasis[r])
            errors.append((float(iou[r, m]) - true) ** 2 if squared else abs(float(iou[r, m]) - true))
    got = IouScore(squared)(given(candidates, target, iou, emphasis=emphasis))
    assert got.item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)


@both
def test_gradient_is_the_numeric_one(loss):
    candidates, target = example(rois=2, size=(3, 2))
    iou = torch.rand(2, 3, dtype=torch.float64)
    known = candidates.requires_grad_(), iou.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, s: loss(given(z, target, s)), known)
