"""What every loss term promises, on every case of `helpers.losses.TERMS`."""

from __future__ import annotations

import pytest
import torch
from helpers.losses import TERMS, example, measure, random_emphasis, sure

from roiseg.common.classes import IGNORE

terms = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
WEIGHTS = [0.5, 3.0, 1.0]


@terms
@pytest.mark.parametrize("emphasised", [False, True])
def test_gradient_is_the_numeric_one(term, emphasised):
    logits, target = example(rois=2, size=(3, 3))
    emphasis = random_emphasis(target) if emphasised else None
    assert torch.autograd.gradcheck(
        lambda z: measure(term, z, target, WEIGHTS, emphasis), logits.requires_grad_()
    )


@terms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_computed_in_float32_for_lower_precisions(term, dtype):
    logits, target = example()
    logits = logits.to(dtype)
    got = measure(term, logits, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(measure(term, logits.double(), target).item(), rel=1e-4)


@terms
def test_autocast_changes_nothing(term):
    logits, target = example()
    logits = logits.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = measure(term, logits, target)
    torch.testing.assert_close(rough, measure(term, logits, target))


@terms
def test_large_maps_do_not_overflow_half_precision(term):
    target = torch.ones(1, 300, 300, dtype=torch.long)  # 90000 cells, above the largest float16
    target[:, :, 290:] = 2
    logits = sure(target).half().requires_grad_()
    got = measure(term, logits, target)
    got.backward()
    assert torch.isfinite(got)
    assert torch.isfinite(logits.grad).all()


@terms
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("rois", [0, 2])
def test_no_pixel_that_counts_gives_zero_with_zero_gradients(term, rois, weights):
    logits = torch.randn(rois, 3, 4, 4, requires_grad=True)
    got = measure(term, logits, torch.full((rois, 4, 4), IGNORE), weights)
    got.backward()
    assert got.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@terms
def test_emphasis_zero_everywhere_gives_zero_with_zero_gradients(term):
    logits, target = example()
    got = measure(term, logits.requires_grad_(), target, emphasis=torch.zeros(target.shape))
    got.backward()
    assert got.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@terms
def test_emphasis_one_everywhere_is_no_emphasis(term):
    logits, target = example()
    emphasised = measure(term, logits, target, emphasis=torch.ones(target.shape))
    torch.testing.assert_close(emphasised, measure(term, logits, target))


@terms
def test_pixels_of_emphasis_zero_get_no_gradient(term):
    logits, target = example()
    emphasis = random_emphasis(target)
    measure(term, logits.requires_grad_(), target, emphasis=emphasis).backward()
    assert logits.grad.any()
    assert not logits.grad[(emphasis == 0)[:, None].expand_as(logits)].any()


@terms
def test_ignored_pixels_neither_get_a_gradient_nor_matter(term):
    logits, target = example(ignored=0.5)
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    got = measure(term, logits.requires_grad_(), target)
    got.backward()
    assert logits.grad.any()
    assert not logits.grad[ignored].any()
    other = torch.where(ignored, 7.0, logits)
    torch.testing.assert_close(measure(term, other, target), got)


@terms
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_a_single_label_gives_a_finite_loss_and_gradient(term, label, size, scale):
    logits = (torch.randn(2, 3, *size) * scale).requires_grad_()
    got = measure(term, logits, torch.full((2, *size), label))
    got.backward()
    assert got.item() >= 0
    assert torch.isfinite(got)
    assert torch.isfinite(logits.grad).all()


@terms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_logits_stay_finite(term, dtype, sign):
    target = torch.tensor([[[0, 1], [2, 1]]])
    logits = ((sure(target, size=2.0) - 1) * sign * 1e4).to(dtype).requires_grad_()
    got = measure(term, logits, target)
    got.backward()
    assert torch.isfinite(got)
    assert torch.isfinite(logits.grad).all()


@terms
def test_right_is_better_than_unsure_and_unsure_better_than_wrong(term):
    target = torch.tensor([[[1, 1, 2], [0, 2, 1], [0, 0, 1]]]).repeat(2, 4, 4)
    right, wrong = sure(target, size=4.0), sure((target + 1) % 3, size=4.0)
    if "embeddings" in term.reads:  # what is alike is what matters there
        wrong = torch.randn(right.shape, generator=torch.Generator().manual_seed(0))
    else:
        assert measure(term, right * 0, target) < measure(term, wrong, target)
        assert measure(term, right, target) < measure(term, right * 0, target)
    assert measure(term, right, target) < measure(term, wrong, target)


@terms
def test_a_step_against_the_gradient_lowers_it(term):
    logits, target = example()
    before = measure(term, logits.requires_grad_(), target)
    before.backward()
    after = measure(term, logits.detach() - 1e-3 * logits.grad, target)
    assert after < before


@terms
def test_order_of_rois_does_not_matter(term):
    logits, target = example(rois=4)
    emphasis = random_emphasis(target)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        measure(term, logits[order], target[order], WEIGHTS, emphasis[order]),
        measure(term, logits, target, WEIGHTS, emphasis),
    )


@terms
def test_mirrored_input_gives_the_same_loss(term):
    logits, target = example()
    torch.testing.assert_close(measure(term, logits.flip(-1), target.flip(-1)), measure(term, logits, target))


@terms
def test_works_for_two_classes(term):
    logits, target = example(classes=2)
    got = measure(term, logits.requires_grad_(), target, WEIGHTS[:2])
    got.backward()
    assert got.item() > 0
    assert logits.grad.abs().max() > 0


@terms
def test_input_is_left_as_it_is(term):
    logits, target = example()
    emphasis = random_emphasis(target)
    copies = logits.clone(), target.clone(), emphasis.clone()
    measure(term, logits, target, WEIGHTS, emphasis)
    assert all(torch.equal(a, b) for a, b in zip(copies, (logits, target, emphasis), strict=True))


@terms
def test_has_no_state(term):
    """A run goes on from its checkpoint with other options of a term."""
    assert not term.state_dict()
