import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from roiseg.common.classes import IGNORE
from roiseg.losses.base import LossInput
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.deep_supervision import DeepSupervision, PointCrossEntropy


def naive(points, coords, target, weights=None):
    """The mean by its definition: torch reads at each point what share of it is of each class."""
    classes = points.shape[1]
    weights = torch.tensor(weights or [1.0] * classes, dtype=torch.float64)[:, None]
    truth = F.one_hot(target.where(target != IGNORE, classes), classes + 1)[..., :classes].permute(0, 3, 1, 2)
    places = 2 * coords[:, :, None].double() - 1
    shares = F.grid_sample(truth.double(), places, padding_mode="border", align_corners=False)[..., 0]
    mass = (weights * shares).sum()
    return float((weights * shares * -points.log_softmax(dim=1)).sum() / mass) if mass else 0.0


def example(rois=2, classes=3, size=(4, 5), count=7, seed=0, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(rois, classes, count, generator=generator, dtype=torch.float64)
    coords = torch.rand(rois, count, 2, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, (rois, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = IGNORE
    return points, coords, target


def loss(points, coords, target, weights=None, emphasis=None):
    logits = torch.zeros(len(points), points.shape[1], *target.shape[1:], dtype=points.dtype)
    auxiliary = {"points": points, "point_coords": coords}
    weights = None if weights is None else torch.tensor(weights)
    return PointCrossEntropy()(LossInput(logits, target, weights, auxiliary, emphasis))


@given(
    st.integers(0, 10**6), st.sampled_from([2, 3]), st.integers(1, 3), st.integers(1, 4), st.floats(0, 1),
    st.sampled_from([None, [0.5, 3.0, 1.0], [0.0, 1.0, 2.0]]),
)  # fmt: skip
@settings(max_examples=30)
def test_equals_the_definition(seed, classes, rois, side, ignored, weights):
    points, coords, target = example(rois, classes, (side, side + 1), 1 + seed % 5, seed, ignored)
    weights = weights and weights[:classes]
    got = loss(points, coords, target, weights)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(naive(points, coords, target, weights), rel=1e-6, abs=1e-12)
    rough = 1e3 * points.bfloat16()
    got = loss(rough, coords.float(), target, weights)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(naive(rough.double(), coords, target, weights), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
def test_gradient_is_the_numeric_one(weights):
    points, coords, target = example()
    assert torch.autograd.gradcheck(lambda z: loss(z, coords, target, weights), points.requires_grad_())


def test_is_0_with_a_gradient_for_no_rois_and_where_all_is_ignored():
    for points, coords, target in (example(rois=0), example(ignored=1.1)):
        points.requires_grad_()
        value = loss(points, coords, target)
        value.backward()
        assert value.item() == 0
        assert points.grad is not None and not points.grad.any()


def test_a_first_stage_is_supervised_like_the_last():
    logits, early = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    target, weights = torch.randint(0, 3, (2, 4, 4)), torch.tensor([1.0, 2.0, 3.0])
    got = DeepSupervision(CrossEntropy())(LossInput(logits, target, weights, {"first": early}))
    assert got.item() == CrossEntropy()(LossInput(early, target, weights)).item()


def test_pixels_count_by_their_emphasis():
    points, coords, target = example(ignored=0)
    left = torch.zeros(target.shape, dtype=torch.float64)
    left[:, :, :2] = 1
    masked = target.where(left > 0, IGNORE)
    assert loss(points, coords, target, emphasis=left).item() == pytest.approx(naive(points, coords, masked))
