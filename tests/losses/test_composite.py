import math

import numpy as np
import pytest
import torch
from helpers.decoders import NARROW, roialign
from helpers.losses import pixels_of

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.decoders.base import DecoderOutput
from roiseg.losses.base import LossInput, LossTerm
from roiseg.losses.composite import CompositeLoss, RoiEmphasis
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice


class Constant(LossTerm):
    """A fixed value, whatever the logits are."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, given):
        return given.logits.sum() * 0 + self.value


class ReadsScore(LossTerm):
    reads = ("score",)

    def forward(self, given):
        return given.auxiliary["score"].sum()


def entry(term, weight=1.0, **more):
    return {"term": term, "weight": weight, **more}


def example(rois=3, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rois, classes, 6, 5, generator=generator)
    target = torch.randint(0, classes, (rois, 6, 5), generator=generator).to(torch.uint8)
    target[:, 0, 0] = IGNORE
    return DecoderOutput(logits), target


def test_is_the_weighted_sum_of_its_terms_and_names_their_plain_values():
    output, target = example()
    given = LossInput(output.logits, target.long(), torch.tensor([0.1, 5.0, 1.0]))
    terms = {"ce": entry(CrossEntropy(0.1), 0.7), "dice": entry(Dice([1, 2]), 2.5)}
    loss = CompositeLoss(terms, [0.1, 5.0, 1.0])
    total, values = loss(output, target)
    ce, dice = CrossEntropy(0.1)(given), Dice([1, 2])(given)
    assert values == {"ce": ce, "dice": dice}
    assert total.item() == pytest.approx(0.7 * ce.item() + 2.5 * dice.item(), rel=1e-6)
    assert total.shape == ()


def test_a_term_of_weight_zero_or_whose_output_is_missing_is_left_out():
    output, target = example()
    terms = {"ce": entry(CrossEntropy()), "score": entry(ReadsScore(), 2.0), "off": entry(ReadsScore(), 0)}
    total, values = CompositeLoss(terms)(output, target)
    assert list(values) == ["ce"]
    assert total.item() == values["ce"].item()
    output.auxiliary["score"] = torch.tensor([2.0, 3.0])
    assert CompositeLoss(terms)(output, target)[0].item() == pytest.approx(total.item() + 10.0)


@pytest.mark.parametrize(("terms", "message"), [
    ({}, r"loss\.terms"),
    ({"ce": entry(CrossEntropy(), 0), "dice": entry(Dice(), 0.0)}, r"loss\.terms"),
    ({"dice": entry(Dice(), from_epoch=2), "ce": entry(CrossEntropy(), from_epoch=3)}, "in the first epoch"),
    ({"dice": entry(Dice(), from_epoch=2), "ce": entry(CrossEntropy(), 0)}, "in the first epoch"),
])  # fmt: skip
def test_impossible_terms_and_no_emphasis_at_all_are_user_errors(terms, message):
    with pytest.raises(UserError, match=message):
        CompositeLoss(terms)
    with pytest.raises(UserError, match=r"loss\.emphasis\.inside"):
        RoiEmphasis(0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_no_term_that_can_be_measured_gives_zero_with_zero_gradients(dtype):
    logits = torch.full((2, 3, 60, 60), 100.0, dtype=dtype, requires_grad=True)  # their sum is no float16
    loss = CompositeLoss({"score": entry(ReadsScore())}, learned=True)
    total, values = loss(DecoderOutput(logits), torch.zeros(2, 60, 60, dtype=torch.uint8))
    total.backward()
    assert values == {} and total.item() == 0
    assert not logits.grad.any()


def test_terms_count_from_their_epoch_on():
    output, target = example()
    later = {"second": entry(Constant(2.0), from_epoch=2), "fourth": entry(Constant(3.0), 2.0, from_epoch=4)}
    loss = CompositeLoss({"ce": entry(CrossEntropy())} | later)
    ce = CrossEntropy()(LossInput(output.logits, target.long())).item()
    assert loss.epoch == 1
    for epoch, count, more in ((1, 1, 0.0), (2, 2, 2.0), (3, 2, 2.0), (4, 3, 8.0), (9, 3, 8.0)):
        loss.epoch = epoch
        total, values = loss(output, target)
        assert list(values) == ["ce", "second", "fourth"][:count]
        assert total.item() == pytest.approx(ce + more, rel=1e-6)


def test_terms_read_what_the_model_gives_and_all_that_it_must_learn_by():
    decoder, ce = roialign(**NARROW)(), {"ce": entry(CrossEntropy())}
    reads, off = (CompositeLoss(ce | {"quality": entry(ReadsScore(), weight)}) for weight in (1, 0))
    with pytest.raises(UserError, match=r"loss\.terms\.quality reads the output `score`.*has embeddings"):
        reads.check(decoder)
    off.check(decoder)
    decoder.provides = decoder.needs = ("score",)
    for loss in (CompositeLoss(ce), off):
        with pytest.raises(UserError, match="output `score`, which no term of this loss reads"):
            loss.check(decoder)
    reads.check(decoder)


def test_a_learned_term_counts_exp_of_minus_s_times_its_value_plus_s():
    output, target = example()
    loss = CompositeLoss({"a": entry(Constant(5.0), 0.5), "b": entry(Constant(0.3))}, learned=True)
    loss.log_variances["a"].data.fill_(1.2)
    loss.log_variances["b"].data.fill_(-0.4)
    total, values = loss(output, target)
    expected = 0.5 * (5 * math.exp(-1.2) + 1.2) + (0.3 * math.exp(0.4) - 0.4)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert {name: value.item() for name, value in values.items()} == pytest.approx({"a": 5.0, "b": 0.3})


def test_learned_weights_start_as_the_plain_sum_and_get_gradients_each_and_those_of_terms_yet_to_come_are_zero():
    """Distributed training wants one for every parameter."""
    output, target = example()
    terms = {"ce": entry(CrossEntropy()), "dice": entry(Dice()), "late": entry(Constant(2.0), from_epoch=2)}
    loss = CompositeLoss(terms, learned=True)
    total, values = loss(output, target)
    torch.testing.assert_close(total, CompositeLoss(terms)(output, target)[0])
    total.backward()
    for name in ("ce", "dice"):
        assert loss.log_variances[name].grad.item() == pytest.approx(1 - values[name].item(), rel=1e-5)
    assert loss.log_variances["late"].grad.item() == 0


def test_learned_weights_are_part_of_the_state():
    terms = {"ce": entry(CrossEntropy()), "dice": entry(Dice()), "off": entry(Constant(1.0), 0)}
    first, second = (CompositeLoss(terms, learned=True) for _ in range(2))
    first.log_variances["dice"].data.fill_(0.7)
    assert set(first.state_dict()) == {"log_variances.ce", "log_variances.dice"}
    second.load_state_dict(first.state_dict())
    assert second.log_variances["dice"].item() == pytest.approx(0.7)
    assert not CompositeLoss(terms, [1.0, 2.0, 3.0]).state_dict()  # class weights may change on resume


def test_pixels_count_by_their_share_of_the_roi_s_area_or_of_all_around_it():
    output, target = example()
    inside = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1))
    inside[:, :2], inside[:, 4:] = 1.0, 0.0
    loss = CompositeLoss({"ce": entry(CrossEntropy())}, emphasis=RoiEmphasis(2.0, 0.5))
    total = mass = 0.0
    for r, (p, label, share, _) in enumerate(pixels_of(output.logits, target, inside)):
        area = float(inside[r].sum())
        weight = 2.0 * share / area + 0.5 * (1 - share) / (30 - area)
        total += (weight * -np.log(p[label, np.arange(len(label))])).sum()
        mass += weight.sum()
    got, _ = loss(DecoderOutput(output.logits, inside=inside), target)
    assert got.item() == pytest.approx(total / mass, rel=1e-5)


def test_every_roi_counts_the_same_however_small_it_is():
    inside = torch.zeros(4, 8, 10)
    inside[0, :2, :2] = 1
    inside[1, 1:, 3:] = 1
    inside[2, 3, 4] = 1
    weights = RoiEmphasis(1.0, 0.25)(inside)
    torch.testing.assert_close(weights[:3].mean(dim=(1, 2)), torch.ones(3))
    shares = (weights * inside).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.8, 0.8, 0.0]))  # the last lies outside the map
    assert (RoiEmphasis(1.0, 0.25)(torch.ones(1, 8, 10)) == 0.8).all()  # and this one covers it


def test_in_the_roi_frame_emphasis_has_no_say():
    output, target = example()
    terms = {"ce": entry(CrossEntropy())}
    plain = CompositeLoss(terms)(output, target)[0]
    assert CompositeLoss(terms, emphasis=RoiEmphasis(3.0, 0.1))(output, target)[0].item() == plain.item()
