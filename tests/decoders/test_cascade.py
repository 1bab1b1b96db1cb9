"""CascadeDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from functools import partial

import pytest
import torch
from helpers.decoders import NARROW, ROIS, builder, random_features

from roiseg.decoders.base import Context
from roiseg.decoders.cascade import CascadeDecoder
from roiseg.decoders.roialign import RoiAlignDecoder


def test_the_second_decoder_gets_the_first_ones_probabilities_and_its_logits_come_on_the_final_grid():
    torch.manual_seed(0)
    first = partial(RoiAlignDecoder, output_size=(28, 28), **NARROW)
    second = partial(RoiAlignDecoder, prior=True, **NARROW)
    decoder = builder(CascadeDecoder)(first=first, second=second)().eval()
    features = random_features(decoder, 3)
    output, early = decoder(features, ROIS), decoder.first(features, ROIS).logits
    expected = decoder.second(features, ROIS, Context(prior=early.softmax(1)))
    torch.testing.assert_close(output.logits, expected.logits)
    assert output.auxiliary["first"].shape == output.logits.shape == (3, 3, 56, 56)
    with pytest.raises(ValueError, match="prior"):
        decoder.second(features, ROIS)
