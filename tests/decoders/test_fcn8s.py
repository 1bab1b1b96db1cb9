"""Fcn8sDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features
from tiny_run import with_random_weights
from torch.nn import functional as F

from roiseg.decoders.fcn8s import BilinearDoubling, Fcn8sDecoder
from roiseg.geometry.roi_align import roi_align

ROIS = torch.tensor([[0, 3.5, 4.25, 40.0, 60.0], [0, 30.0, 10.0, 95.5, 50.5], [2, 50.0, 20.0, 54.0, 61.0]])
STRIDES = (4, 8, 16)


def narrow(in_channels=(6, 8, 10), strides=STRIDES, **options):
    torch.manual_seed(0)
    return Fcn8sDecoder(in_channels, strides, IMAGE_SIZE, **{"fc_channels": 12, **options}).eval()


@pytest.mark.parametrize("size", [(7, 7), (14, 5), (1, 1)])
def test_an_untrained_doubling_is_bilinear_interpolation_up_to_the_border(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    doubled = BilinearDoubling(3).double()(x)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(doubled, expected)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_last_upsampling_is_the_fixed_transposed_convolution_of_the_source_inside(factor):
    """A kernel of twice the factor, the factor as stride, bilinear weights."""
    decoder = narrow(output_size=(28 * factor, 28 * factor))
    summed = []
    decoder.double_middle.register_forward_hook(lambda *given: summed.append(given[2]))
    for parameter in (decoder.score_finest.weight, decoder.score_finest.bias):
        parameter.data.zero_()
    with torch.no_grad():
        logits = decoder(random_features(decoder, 3), ROIS).logits
    line = 1 - ((torch.arange(2 * factor) + 0.5) / factor - 1).abs()
    kernel = torch.outer(line, line).expand(3, 1, -1, -1)
    source = F.conv_transpose2d(summed[0], kernel, stride=factor, padding=factor // 2, groups=3)
    inside = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(logits[inside], source[inside], atol=1e-5, rtol=1e-5)
    assert not any(b.requires_grad for b in decoder.buffers())


@pytest.mark.parametrize(("at_once", "scales"), [(False, (1.0, 1.0)), (True, (0.0001, 0.01))])
def test_logits_are_the_sum_written_out(at_once, scales):
    decoder = with_random_weights(narrow(at_once=at_once), 0.05, seed=1).double()  # no fresh kernels
    features = [10 * f.double() for f in random_features(decoder, 3)]

    def crop(layer, cells):
        return roi_align(features[layer], ROIS.double(), (cells, cells), STRIDES[layer])

    def score(layer, x):
        return F.conv2d(x, layer.weight, layer.bias)

    def double(layer, x):
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, layer.transposed.weight, stride=2)[:, :, 3:-3, 3:-3]

    fc6, fc7 = decoder.fc[0], decoder.fc[3]
    hidden = F.conv2d(crop(2, 7), fc6.weight, fc6.bias, padding=3).clamp(min=0)
    scores = score(decoder.score_coarsest, score(fc7, hidden).clamp(min=0))
    scores = double(decoder.double_coarsest, scores) + score(decoder.score_middle, crop(1, 14) * scales[1])
    scores = double(decoder.double_middle, scores) + score(decoder.score_finest, crop(0, 28) * scales[0])
    expected = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        logits = decoder(features, ROIS.double()).logits
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)


def test_layers_may_come_in_any_order():
    one, other = narrow(), narrow((10, 6, 8), (16, 4, 8))
    other.load_state_dict(one.state_dict())
    fine, middle, coarse = random_features(one, 3)
    with torch.no_grad():
        got, want = other([coarse, fine, middle], ROIS).logits, one([fine, middle, coarse], ROIS).logits
    torch.testing.assert_close(got, want)
