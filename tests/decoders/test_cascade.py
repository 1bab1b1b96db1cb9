"""CascadeDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, NARROW, random_features, roialign

from roiseg.decoders.base import Context
from roiseg.decoders.cascade import CascadeDecoder
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.losses.base import LossInput
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.deep_supervision import DeepSupervision

ROIS = torch.tensor([[0, 3.5, 4.25, 40.0, 60.0], [1, 30.0, 10.0, 95.5, 50.5]])


def stage(**options):
    return partial(RoiAlignDecoder, **{**NARROW, **options})


def cascade(first=None, second=None, **options):
    return CascadeDecoder(
        [8], [4], IMAGE_SIZE, first or stage(), second or stage(prior=True), **options
    ).eval()


def test_the_second_decoder_gets_the_first_ones_probabilities():
    torch.manual_seed(0)
    decoder = cascade()
    features = random_features(decoder, 2)
    early = decoder.first(features, ROIS).logits
    expected = decoder.second(features, ROIS, Context(prior=early.softmax(1)))
    torch.testing.assert_close(decoder(features, ROIS).logits, expected.logits)


def test_the_first_decoders_logits_come_on_the_final_grid():
    decoder = cascade(first=stage(output_size=(28, 28)))
    output = decoder(random_features(decoder, 2), ROIS)
    assert output.auxiliary["first"].shape == output.logits.shape == (2, 3, 56, 56)


def test_the_first_stage_is_supervised_like_the_last():
    logits, early = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4))
    given = LossInput(logits, target, torch.tensor([1.0, 2.0, 3.0]), {"first": early})
    expected = CrossEntropy()(LossInput(early, target, torch.tensor([1.0, 2.0, 3.0])))
    assert DeepSupervision(CrossEntropy())(given).item() == expected.item()


def test_a_prior_that_is_needed_but_missing_is_an_error():
    decoder = roialign(prior=True, **NARROW)()
    with pytest.raises(ValueError, match="prior"):
        decoder(random_features(decoder, 1), ROIS[:1])
