from __future__ import annotations

import pytest
import torch

from roiseg.common.classes import IGNORE
from roiseg.common.errors import UserError
from roiseg.decoders.base import DecoderOutput
from roiseg.losses.base import LossInput, LossTerm
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice


def entry(term, weight=1.0):
    return {"term": term, "weight": weight}


def example(rois=3, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rois, classes, 6, 5, generator=generator)
    target = torch.randint(0, classes, (rois, 6, 5), generator=generator).to(torch.uint8)
    target[:, 0, 0] = IGNORE
    return DecoderOutput(logits), target


def test_is_the_weighted_sum_of_its_terms_and_names_their_plain_values():
    output, target = example()
    given = LossInput(output.logits, target.long())
    loss = CompositeLoss({"ce": entry(CrossEntropy(0.1), 0.7), "dice": entry(Dice([1, 2]), 2.5)})
    total, values = loss(output, target)
    ce, dice = CrossEntropy(0.1)(given), Dice([1, 2])(given)
    assert values == {"ce": ce, "dice": dice}
    assert total.item() == pytest.approx(0.7 * ce.item() + 2.5 * dice.item(), rel=1e-6)
    assert total.shape == ()


def test_gradient_is_the_weighted_sum_of_the_terms_gradients():
    output, target = example()
    gradients = []
    for terms in (
        {"ce": entry(CrossEntropy(), 0.5), "dice": entry(Dice(), 3.0)},
        {"ce": entry(CrossEntropy())},
        {"dice": entry(Dice())},
    ):
        logits = output.logits.clone().requires_grad_()
        CompositeLoss(terms)(DecoderOutput(logits), target)[0].backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[0], 0.5 * gradients[1] + 3.0 * gradients[2])


@pytest.mark.parametrize("weight", [0, 0.0])
def test_weight_zero_switches_a_term_off(weight):
    class Explodes(LossTerm):
        def forward(self, given):
            raise AssertionError("called")

    output, target = example()
    loss = CompositeLoss({"ce": entry(CrossEntropy()), "off": entry(Explodes(), weight)})
    total, values = loss(output, target)
    assert list(values) == ["ce"]
    assert total.item() == values["ce"].item()


@pytest.mark.parametrize("terms", [{}, {"ce": entry(CrossEntropy(), 0), "dice": entry(Dice(), 0.0)}])
def test_no_term_with_a_weight_is_a_user_error(terms):
    with pytest.raises(UserError, match=r"loss\.terms"):
        CompositeLoss(terms)


@pytest.mark.parametrize(("count", "classes"), [(2, 3), (3, 2), (1, 3), (0, 2)])
def test_class_weights_of_another_length_are_a_user_error(count, classes):
    output, target = example(classes=classes)
    loss = CompositeLoss({"ce": entry(CrossEntropy())}, class_weights=[1.0] * count)
    with pytest.raises(UserError, match=rf"loss\.class_weights has {count} numbers, the decoder {classes}"):
        loss(output, target)


def test_class_weights_reach_the_terms():
    output, target = example()
    weighted, _ = CompositeLoss({"ce": entry(CrossEntropy())}, [0.1, 5.0, 1.0])(output, target)
    expected = CrossEntropy()(LossInput(output.logits, target.long(), torch.tensor([0.1, 5.0, 1.0])))
    plain, _ = CompositeLoss({"ce": entry(CrossEntropy())})(output, target)
    assert weighted.item() == expected.item()
    assert weighted.item() != pytest.approx(plain.item(), rel=1e-3)


def test_auxiliary_outputs_reach_the_terms():
    class Reads(LossTerm):
        def forward(self, given):
            return given.auxiliary["score"].sum()

    output, target = example()
    output.auxiliary["score"] = torch.tensor([2.0, 3.0])
    assert CompositeLoss({"score": entry(Reads(), 2.0)})(output, target)[0].item() == 10.0


def test_class_weights_are_no_part_of_the_state():
    """A run with other class weights can go on from the checkpoint."""
    assert not CompositeLoss({"ce": entry(CrossEntropy())}, [1.0, 2.0, 3.0]).state_dict()


@pytest.mark.parametrize("rois", [0, 2])
def test_no_pixel_that_counts_gives_zero_with_zero_gradients(rois):
    logits = torch.randn(rois, 3, 6, 5, requires_grad=True)
    loss = CompositeLoss({"ce": entry(CrossEntropy(0.1)), "dice": entry(Dice([1, 2]))}, [1.0, 2.0, 3.0])
    total, _ = loss(DecoderOutput(logits), torch.full((rois, 6, 5), IGNORE, dtype=torch.uint8))
    total.backward()
    assert total.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_order_of_rois_does_not_matter():
    output, target = example(rois=4)
    order = torch.tensor([3, 1, 0, 2])
    loss = CompositeLoss({"ce": entry(CrossEntropy()), "dice": entry(Dice([1, 2]))}, [1.0, 2.0, 3.0])
    torch.testing.assert_close(
        loss(DecoderOutput(output.logits[order]), target[order])[0], loss(output, target)[0]
    )
