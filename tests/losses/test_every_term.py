"""What every loss term promises, on every case of `helpers.losses.TERMS`, and what `loss=` teaches."""

import pytest
import torch
from helpers.decoders import NARROW, learned_target_iou, roialign
from helpers.losses import TERMS, example, measure, random_emphasis, sure
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.config.entry import CONF_DIR
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
    assert not term.state_dict()  # a run resumes from its checkpoint with other options of a term


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


PRESETS = sorted(path.stem for path in (CONF_DIR / "loss").glob("*.yaml") if path.stem != "default")


def build(preset):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return instantiate(compose("train", overrides=[f"loss={preset}"]).loss, _convert_="all")


@pytest.mark.slow_except("[ce_dice]")
@pytest.mark.parametrize("preset", PRESETS)
def test_one_batch_of_overlapping_ellipses_can_be_learned_by_heart(preset):
    torch.manual_seed(0)
    decoder, loss = roialign(output_size=(28, 28), **NARROW)().train(), build(preset)
    try:
        loss.check(decoder)
    except UserError as error:
        pytest.skip(str(error))  # for another decoder
    assert learned_target_iou(decoder, loss, 200, 1e-2) >= 0.97
