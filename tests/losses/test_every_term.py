"""What every loss term promises, on every case of `helpers.losses.TERMS`."""

import pytest
import torch
from helpers.losses import TERMS, example, measure, random_emphasis, sure

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.losses.boundary import BoundaryDistance
from roiseg.losses.contrastive import Contrastive
from roiseg.losses.cross_entropy import FocalCrossEntropy
from roiseg.losses.dice import BceDice, Dice, Tversky
from roiseg.losses.lovasz import LovaszSoftmax

terms = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
WEIGHTS = [0.5, 3.0, 1.0]


def slope(term, logits, target, weights=None, emphasis=None):
    """The term's value and its gradient in the logits, both finite."""
    logits = logits.detach().requires_grad_()
    got = measure(term, logits, target, weights, emphasis)
    got.backward()
    assert torch.isfinite(got)
    assert torch.isfinite(logits.grad).all()
    return got.detach(), logits.grad


@terms
@pytest.mark.parametrize("emphasised", [False, True])
def test_gradient_is_the_numeric_one(term, emphasised):
    logits, target = example(rois=2, size=(3, 3))
    emphasis = random_emphasis(target) if emphasised else None
    given = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: measure(term, z, target, WEIGHTS, emphasis), given)


@terms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_computed_in_float32_for_lower_precisions_and_under_autocast(term, dtype):
    logits, target = example()
    logits = logits.to(dtype)
    got = measure(term, logits, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(measure(term, logits.double(), target).item(), rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(measure(term, logits, target), got)


@terms
def test_value_and_gradient_are_finite_on_large_maps_and_for_huge_logits(term):
    target = torch.ones(1, 300, 300, dtype=torch.long)  # 90000 cells, above the largest float16
    target[:, :, 290:] = 2
    slope(term, sure(target).half(), target)
    target = torch.tensor([[[0, 1], [2, 1]]])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for scale in (1e4, -1e4):
            slope(term, ((sure(target, size=2.0) - 1) * scale).to(dtype), target)


@terms
@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_single_label_gives_a_finite_loss_and_gradient(term, label):
    for size in ((1, 1), (3, 4)):
        for scale in (0.0, 1.0, 1e4):
            value, _ = slope(term, torch.randn(2, 3, *size) * scale, torch.full((2, *size), label))
            assert value >= 0


@terms
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_no_pixel_that_counts_gives_zero_with_zero_gradients(term, weights):
    logits, target = example()
    nothing = torch.full_like(target, IGNORE)
    for given, emphasis in ((nothing[:0], None), (nothing, None), (target, torch.zeros(target.shape))):
        value, gradient = slope(term, logits[: len(given)], given, weights, emphasis)
        assert value == 0 and not gradient.any()


@terms
def test_pixels_count_by_their_emphasis(term):
    logits, target = example()
    everywhere = measure(term, logits, target, emphasis=torch.ones(target.shape))
    torch.testing.assert_close(everywhere, measure(term, logits, target))
    emphasis = random_emphasis(target)
    _, gradient = slope(term, logits, target, emphasis=emphasis)
    assert gradient.any()
    assert not gradient[(emphasis == 0)[:, None].expand_as(logits)].any()


@terms
def test_ignored_pixels_neither_get_a_gradient_nor_matter(term):
    logits, target = example(ignored=0.5)
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    value, gradient = slope(term, logits, target)
    assert gradient.any()
    assert not gradient[ignored].any()
    torch.testing.assert_close(measure(term, torch.where(ignored, 7.0, logits), target), value)


@terms
def test_right_is_better_than_unsure_and_unsure_better_than_wrong(term):
    target = torch.tensor([[[1, 1, 2], [0, 2, 1], [0, 0, 1]]]).repeat(2, 4, 4)
    right, wrong = sure(target, size=4.0), sure((target + 1) % 3, size=4.0)
    if "embeddings" in term.reads:  # what is alike is what matters there
        wrong = torch.randn(right.shape, generator=torch.Generator().manual_seed(0))
    else:
        assert measure(term, right, target) < measure(term, right * 0, target) < measure(term, wrong, target)
    assert measure(term, right, target) < measure(term, wrong, target)


@terms
def test_order_of_rois_and_mirroring_do_not_matter_and_neither_input_nor_term_changes(term):
    logits, target = example(rois=4)
    emphasis, order = random_emphasis(target), torch.tensor([2, 0, 3, 1])
    copies = logits.clone(), target.clone(), emphasis.clone()
    got = measure(term, logits, target, WEIGHTS, emphasis)
    shuffled = (value[order].flip(-1) for value in (logits, target))
    torch.testing.assert_close(measure(term, *shuffled, WEIGHTS, emphasis[order].flip(-1)), got)
    assert all(torch.equal(a, b) for a, b in zip(copies, (logits, target, emphasis), strict=True))
    assert not term.state_dict()  # a run resumes from its checkpoint with other options of a term


@pytest.mark.parametrize(
    "term", [Dice(smooth=1e-6), Tversky(beta=1.0, smooth=1e-6), LovaszSoftmax(), BoundaryDistance()]
)
def test_each_roi_that_shows_the_target_counts_the_same_however_small_it_is(term):
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0, :7] = 1
    target[1, 0, 0] = 1
    for missed in (0, 1):
        predicted = target.clone()
        predicted[missed] = 1 - target[missed]
        assert measure(term, sure(predicted), target).item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("term", [Dice([2]), Tversky([2]), LovaszSoftmax([2]), Contrastive()])
def test_only_classes_the_decoder_lacks_give_zero_with_zero_gradients(term):
    value, gradient = slope(term, *example(classes=2))
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize(("make", "options", "message"), [
    (BceDice, [(0.0, 0.0)], "bce_weight and dice_weight of the bce_dice term"),
    (Contrastive, [(-0.1, 1.0), (1.0, 1.0), (0.1, 2.1)], "margins of the contrastive term"),
    (FocalCrossEntropy, [(2, []), (2, [0.0, 0.0, 0.0])], "alpha of the focal term"),
    (Tversky, [([1], 0.0, 0.0)], "alpha and beta of the tversky term"),
])  # fmt: skip
def test_impossible_options_are_user_errors(make, options, message):
    for values in options:
        with pytest.raises(UserError, match=message):
            make(*values)
    for count in (2, 4):
        with pytest.raises(UserError, match=rf"alpha of the focal term has {count} numbers, the decoder 3"):
            measure(FocalCrossEntropy(2, [1.0] * count), *example())
