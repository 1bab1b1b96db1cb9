"""YolactDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, ROIS, random_features
from torch import nn

from roiseg.decoders.yolact import YolactDecoder

NARROW = {"mid_channels": 8, "prototypes": 5, "roi_depth": 1}


def seen(decoder, features):
    """Logits, prototypes [B, P, h, w] and coefficients [R, K, P] of one run."""
    caught = []
    for part in (decoder.protonet, decoder.coefficients):
        part.register_forward_hook(lambda module, given, result: caught.append(result))
    with torch.no_grad():
        logits = decoder(features, ROIS).logits
    prototypes, coefficients = sorted(caught, key=lambda tensor: -tensor.ndim)
    return logits, prototypes, coefficients.tanh().reshape(len(ROIS), decoder.num_classes, -1)


def test_logits_are_prototypes_weighted_by_coefficients_and_nothing_else():
    torch.manual_seed(0)
    decoder = YolactDecoder([6], [4], IMAGE_SIZE, **NARROW).eval()
    logits, prototypes, coefficients = seen(decoder, random_features(decoder, 3))
    assert prototypes.shape == (3, 5, 32, 48)  # once an image, at twice the resolution of the features
    expected = torch.einsum("rkp,rphw->rkhw", coefficients, prototypes[ROIS[:, 0].long()])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_protonet_has_no_norms_xavier_weights_and_zero_biases():
    torch.manual_seed(0)
    decoder = YolactDecoder([8], [4], IMAGE_SIZE, mid_channels=64)
    assert not any(isinstance(m, nn.GroupNorm) for m in decoder.protonet.modules())
    convolutions = [m for m in decoder.protonet.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == 4 * [(64, (3, 3))] + [(32, (1, 1))]
    for convolution in convolutions:
        ends = convolution.in_channels + convolution.out_channels
        limit = (6 / (ends * convolution.kernel_size[0] ** 2)) ** 0.5
        assert float(convolution.weight.detach().abs().max()) == pytest.approx(limit, rel=0.01)
        assert not convolution.bias.any()
