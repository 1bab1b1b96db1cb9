"""CascadeDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.decoders import NARROW, builder, random_features, roialign

from roiseg.decoders.base import Context
from roiseg.decoders.cascade import CascadeDecoder
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.losses.base import LossInput
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.deep_supervision import DeepSupervision

ROIS = torch.tensor([[0, 3.5, 4.25, 40.0, 60.0], [1, 30.0, 10.0, 95.5, 50.5]])


def test_the_second_decoder_gets_the_first_ones_probabilities_and_its_logits_come_on_the_final_grid():
    torch.manual_seed(0)
    first = partial(RoiAlignDecoder, output_size=(28, 28), **NARROW)
    decoder = builder(CascadeDecoder)(
        first=first, second=partial(RoiAlignDecoder, prior=True, **NARROW)
    )().eval()
    features = random_features(decoder, 2)
    output, early = decoder(features, ROIS), decoder.first(features, ROIS).logits
    expected = decoder.second(features, ROIS, Context(prior=early.softmax(1)))
    torch.testing.assert_close(output.logits, expected.logits)
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
