"""What every decoder promises, on every case of `helpers.decoders.CASES`."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers import decoders
from helpers.decoders import CASES, IMAGE_SIZE, NARROW, fcn8s, learned_target_iou, pyramid, random_features

from roiseg.decoders.base import Context
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice

NARROW_AND_WHOLE = torch.tensor([[2, 50.0, 20.0, 54.0, 61.0], [2, 0.0, 0.0, 96.0, 64.0]])
ROIS = torch.cat([decoders.ROIS, NARROW_AND_WHOLE])
NO_ROIS = torch.zeros(0, 5)

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def build(case, seed=0):
    torch.manual_seed(seed)
    return case.make().eval()


def context(decoder, images=3):
    """An image and pixel sizes, for decoders with a detail branch or FiLM."""
    image = torch.rand(images, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(9))
    return Context(image=image, pixel_size=torch.tensor([0.5, 1.0, 3.0])[:images])


@cases
def test_logits_have_a_channel_per_class_on_the_output_grid_the_same_for_equal_seeds_and_weights(case):
    decoder, again, restored = build(case, seed=3), build(case, seed=3), build(case, seed=4)
    restored.load_state_dict(decoder.state_dict())
    features, rois, known = random_features(decoder, 3), ROIS.clone(), context(decoder)
    before = [f.clone() for f in features]
    with torch.no_grad():
        for count in (0, 1, 5):
            logits = decoder(features, rois[:count], known).logits
            assert logits.shape == (count, decoder.num_classes, *decoder.output_size)
            assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
        for other in (decoder, again, restored):
            assert torch.equal(logits, other(features, rois, known).logits)
    assert torch.equal(rois, ROIS)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


@cases
def test_gradients_reach_every_parameter_and_none_where_there_are_no_rois(case):
    decoder = build(case).train()
    features, known = random_features(decoder, 3), context(decoder)
    decoder(features, NO_ROIS, known).logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in decoder.parameters())
    output = decoder(features, ROIS, known)
    generator = torch.Generator().manual_seed(1)
    outputs = [output.logits, *(v for v in output.auxiliary.values() if v.requires_grad)]
    sum((v * torch.randn(v.shape, generator=generator)).sum() for v in outputs).backward()
    for name, parameter in decoder.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


@cases
def test_a_roi_depends_on_its_own_image_and_box_and_on_nothing_else(case):
    decoder = build(case)
    features = random_features(decoder, 3)  # the middle image has no ROI
    known = context(decoder)
    with torch.no_grad():
        together = decoder(features, ROIS, known).logits
        for number, roi in enumerate(ROIS):
            image = int(roi[0])
            alone = torch.cat([torch.zeros(1), roi[1:]])[None]
            its = Context(known.image[image : image + 1], known.pixel_size[image : image + 1])
            expected = decoder([f[image : image + 1] for f in features], alone, its).logits[0]
            torch.testing.assert_close(together[number], expected, atol=1e-5, rtol=1e-5)
        for shift in ([1.0, 0, 0, 0, 0], [0, 20.0, 0, 20, 0]):
            other = decoder(features, ROIS[:1] + torch.tensor([shift]), known).logits
            assert (other - together[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("case", [c for c in CASES if c.symmetric], ids=lambda case: case.name)
def test_mirrored_input_gives_mirrored_logits_with_mirror_symmetric_weights(case):
    decoder = build(case)
    case.symmetric(decoder)
    features = random_features(decoder, 3)
    rois = ROIS.clone()
    rois[:, 1], rois[:, 3] = IMAGE_SIZE[1] - ROIS[:, 3], IMAGE_SIZE[1] - ROIS[:, 1]
    known = context(decoder)
    with torch.no_grad():
        expected = decoder(features, ROIS, known).logits.flip(-1)
        flipped = replace(known, image=known.image.flip(-1))
        mirrored = decoder([f.flip(-1) for f in features], rois, flipped).logits
    torch.testing.assert_close(mirrored, expected, atol=1e-4, rtol=0)


LOSSES = {
    "ce": {"ce": {"term": CrossEntropy(), "weight": 1.0}},
    "ce_dice": {"ce": {"term": CrossEntropy(), "weight": 1.0}, "dice": {"term": Dice([1]), "weight": 1.0}},
}


@pytest.mark.slow_except("roialign")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", [c for c in CASES if c.small], ids=lambda case: case.name)
def test_one_batch_of_overlapping_ellipses_can_be_learned_by_heart(case, loss):
    decoder, measure = build(case), CompositeLoss({**LOSSES[loss], **case.terms})
    measure.check(decoder)
    assert learned_target_iou(decoder, measure, case.steps, case.rate, context(decoder, 1)) >= 0.97


@pytest.mark.slow_except("roialign")
@cases
def test_channels_last_weights_give_the_same_logits(case):
    decoder = build(case)
    features = random_features(decoder, 3)
    other = copy.deepcopy(decoder).to(memory_format=torch.channels_last)
    with torch.no_grad():
        got, want = (d(features, ROIS, context(decoder)).logits for d in (other, decoder))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [fcn8s(dropout=0.5), pyramid(**NARROW, dropout=0.5)])
def test_dropout_is_random_in_training_only(make):
    decoder = make()
    features, before = random_features(decoder, 3), torch.get_rng_state()
    assert torch.equal(decoder.eval()(features, ROIS).logits, decoder(features, ROIS).logits)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(decoder.train()(features, ROIS).logits, decoder(features, ROIS).logits)
