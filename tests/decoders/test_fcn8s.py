"""Fcn8sDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from __future__ import annotations

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.decoders.fcn8s import BilinearDoubling, Fcn8sDecoder
from roiseg.geometry.roi_align import roi_align

ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, 30.0, 10.0, 95.5, 50.5],
    [2, 50.0, 20.0, 54.0, 61.0],  # narrow
])  # fmt: skip
STRIDES = (4, 8, 16)


def narrow(in_channels=(6, 8, 10), strides=STRIDES, **options):
    torch.manual_seed(0)
    return Fcn8sDecoder(in_channels, strides, IMAGE_SIZE, **{"fc_channels": 12, **options}).eval()


def test_parameters_are_those_counted_by_hand_from_vgg_16_layers():
    """pool3, pool4 and pool5 of VGG-16 have 256, 512 and 512 channels; its fc6 and fc7 have 4096."""
    fc6, fc7 = 512 * 4096 * 7 * 7 + 4096, 4096 * 4096 + 4096
    scores = (4096 * 3 + 3) + (512 * 3 + 3) + (256 * 3 + 3)
    doublings = 2 * (3 * 3 * 4 * 4)
    assert (fc6, fc7) == (102_764_544, 16_781_312)
    with torch.device("meta"):
        decoder = Fcn8sDecoder([256, 512, 512], [8, 16, 32], (224, 224), fc_channels=4096)
    assert sum(p.numel() for p in decoder.parameters()) == fc6 + fc7 + scores + doublings


def test_default_configuration_has_the_parameters_counted_by_hand():
    fc6, fc7 = 128 * 512 * 7 * 7 + 512, 512 * 512 + 512
    scores = (512 * 3 + 3) + (96 * 3 + 3) + (64 * 3 + 3)
    assert fc6 + fc7 + scores + 2 * 144 == 3_476_745
    decoder = Fcn8sDecoder([64, 96, 128], [8, 16, 32], (416, 416))
    assert sum(p.numel() for p in decoder.parameters()) == 3_476_745


@pytest.mark.parametrize("size", [(7, 7), (14, 5), (1, 1)])
def test_an_untrained_doubling_is_bilinear_interpolation_up_to_the_border(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    doubled = BilinearDoubling(3).double()(x)
    torch.testing.assert_close(
        doubled, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    )


def test_an_untrained_doubling_equals_the_transposed_convolution_written_out():
    """Each cell adds itself, times the 4x4 kernel, to the 4x4 cells around its place on the finer grid."""
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    kernel = [0.25, 0.75, 0.75, 0.25]
    expected = torch.zeros(1, 2, 12, 14, dtype=torch.float64)
    for row in range(5):
        for column in range(6):
            for i in range(4):
                for j in range(4):
                    expected[..., 2 * row + i, 2 * column + j] += x[..., row, column] * kernel[i] * kernel[j]
    doubled = BilinearDoubling(2).double()(x)
    torch.testing.assert_close(doubled[..., 1:-1, 1:-1], expected[..., 2:-2, 2:-2])


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
    decoder = narrow(at_once=at_once).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in decoder.parameters():  # no fresh kernels
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    features = [10 * f.double() for f in random_features(decoder, 3)]

    def crop(layer, cells):
        return roi_align(features[layer], ROIS.double(), (cells, cells), STRIDES[layer])

    def score(layer, x):
        return torch.einsum("kc,rchw->rkhw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]

    def double(layer, x):
        weight, out = layer.transposed.weight, torch.zeros(len(x), 3, 2 * x.shape[2] + 6, 2 * x.shape[3] + 6)
        out = out.double()
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        for i in range(4):
            for j in range(4):
                part = torch.einsum("kc,rkhw->rchw", weight[:, :, i, j], x)
                out[:, :, i : i + 2 * x.shape[2] : 2, j : j + 2 * x.shape[3] : 2] += part
        return out[:, :, 3:-3, 3:-3]

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
        torch.testing.assert_close(
            other([coarse, fine, middle], ROIS).logits, one([fine, middle, coarse], ROIS).logits
        )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layer_matters(layer):
    decoder = narrow()
    features = random_features(decoder, 3)
    changed = [f + 1 if number == layer else f for number, f in enumerate(features)]
    with torch.no_grad():
        assert (decoder(changed, ROIS).logits - decoder(features, ROIS).logits).abs().max() > 1e-2


def test_dropout_is_random_in_training_only():
    decoder = narrow(dropout=0.5)
    features = random_features(decoder, 3)
    with torch.no_grad():
        still = decoder(features, ROIS).logits
        assert torch.equal(still, decoder(features, ROIS).logits)
        decoder.train()
        torch.manual_seed(1)
        first, second = decoder(features, ROIS).logits, decoder(features, ROIS).logits
        torch.manual_seed(1)
        again = decoder(features, ROIS).logits
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "strides", [(8,), (4, 8), (8, 16, 64), (8, 8, 16), (8, 16, 32, 64), (4, 8, 8), (8, 12, 16)]
)
def test_other_than_three_layers_with_doubling_strides_is_a_user_error(strides):
    given = ", ".join(map(str, strides))
    with pytest.raises(UserError) as error:
        Fcn8sDecoder([8] * len(strides), strides, (192, 192))
    assert str(error.value) == (
        "model=fcn8s needs three feature layers whose strides double (8, 16, 32), "
        f"it is given strides ({given}): set extractor.layers to three such tensors"
    )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"roi_size": (14, 14)}, "model.roi_size"),
        ({"roi_size": (28, 30)}, "model.roi_size"),
        ({"output_size": (50, 50)}, "model.output_size [50, 50]"),
        ({"output_size": (56, 28)}, "choose one of [28, 28], [56, 56], [112, 112], [224, 224]"),
        ({"output_size": (14, 14)}, "model.output_size"),
    ],
)
def test_impossible_options_are_user_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match="model") as error:
        narrow(**options)
    assert field in str(error.value)
    assert "\n" not in str(error.value)
