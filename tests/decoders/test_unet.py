"""UNetDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features
from torch import nn
from torch.nn import functional as F

from roiseg.common.errors import UserError
from roiseg.decoders.base import Context
from roiseg.decoders.unet import UNet, UNetDecoder, roi_maps

ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [2, -4.0, -6.0, 33.0, 30.0],  # over the border
    [2, 50.0, 20.0, 54.0, 61.0],  # narrow
])  # fmt: skip
NARROW = {"channels": 8, "depth": 2}


def block(*widths):
    """Parameters of 3x3 convolutions without bias, each with GroupNorm."""
    return sum(a * b * 9 + 2 * b for a, b in pairwise(widths))


def test_default_configuration_has_the_parameters_counted_by_hand():
    decoder = UNetDecoder([1024], [8], (640, 640))
    first = (1024 * 32 + 32) + 32 * 32 * 9 + 7 * 32 * 9 + 2 * 32  # reduction, features, ROI maps, norm
    enter = block(32, 32)
    down = block(32, 64, 64) + block(64, 128, 128) + block(128, 256, 256)
    up = block(128 + 256, 128, 128) + block(64 + 128, 64, 64) + block(32 + 64, 32, 32)
    refine, predict = block(32, 16), 16 * 3 + 3  # stride 8 -> 4
    assert first + enter + down + up + refine + predict == 1_996_115
    assert sum(p.numel() for p in decoder.parameters()) == 1_996_115
    assert decoder.map_stride == 4
    assert decoder.output_size == (160, 160)


def test_64_channels_and_4_levels_are_the_widths_of_the_source():
    """Ronneberger et al.: 64, 128, 256, 512 and 1024 channels; ours read 3x3 what theirs bring up 2x2."""
    unet = UNet(64, 4)
    convolutions = [m for m in unet.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(c.in_channels, c.out_channels) for c in convolutions]
    assert shapes[:8] == [(64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024)]  # fmt: skip
    assert sorted(shapes[8:]) == [(64, 64), (128, 128), (192, 64), (256, 256), (384, 128), (512, 512), (768, 256), (1536, 512)]  # fmt: skip
    assert all(c.kernel_size == (3, 3) for c in convolutions)


@pytest.mark.parametrize("size", [(52, 52), (13, 7), (8, 9), (5, 8)])
def test_a_map_of_any_size_keeps_its_size(size):
    seen = []
    unet = UNet(4, 3).eval()
    for level in unet.down:
        level.register_forward_hook(lambda *given: seen.append(tuple(given[2].shape[2:])))
    assert unet(torch.randn(2, 4, *size)).shape == (2, 4, *size)
    assert seen[0] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    assert seen[1] == ((seen[0][0] + 1) // 2, (seen[0][1] + 1) // 2)


def test_cells_stay_where_they_were_on_maps_of_odd_sides():
    """A lone bright cell that only the level below sees comes back over the cells it was pooled from."""
    unet = UNet(1, 1).eval()
    centre = torch.zeros(1, 1, 3, 3)
    centre[..., 1, 1] = 1
    for sequence in (unet.down[0], unet.up[0]):
        for layer in sequence:  # each convolution a mean or the like, no norm
            convolution = layer[0]
            convolution.weight.data = torch.zeros_like(convolution.weight)
            convolution.weight.data[:, -1:] = centre  # reads the last channel: from below
            layer[1] = nn.Identity()
    x = torch.zeros(1, 1, 13, 13)
    x[..., 10, 3] = 1
    with torch.no_grad():
        out = unet(x)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(13.0), torch.arange(13.0), indexing="ij")
    assert float((out * rows).sum() / out.sum()) == pytest.approx(10.5)  # cells 10 and 11
    assert float((out * columns).sum() / out.sum()) == pytest.approx(2.5)  # cells 2 and 3


def test_the_first_convolution_equals_one_over_features_and_roi_maps_together():
    torch.manual_seed(0)
    decoder = UNetDecoder([6, 10], [8, 4], IMAGE_SIZE, **NARROW).double().eval()
    features = [f.double() for f in random_features(decoder, 3)]
    entered = []
    decoder.enter.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    decoder(features, ROIS.double())
    fusion, convolution = decoder.read_features
    weight = torch.cat([convolution.weight, decoder.read_rois.weight], dim=1)
    for number, roi in enumerate(ROIS):
        image = int(roi[0])
        coarse = F.conv2d(features[0][image][None], fusion.reduce[0].weight, fusion.reduce[0].bias)
        fine = F.conv2d(features[1][image][None], fusion.reduce[1].weight, fusion.reduce[1].bias)
        fused = fine + F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        together = torch.cat([fused, roi_maps(roi[None], IMAGE_SIZE, (16, 24)).double()], dim=1)
        expected = F.conv2d(together, weight, decoder.read_rois.bias, padding=1)[0]
        torch.testing.assert_close(entered[0][number], expected)


def test_features_are_convolved_once_an_image_not_once_a_roi():
    decoder = UNetDecoder([8], [4], IMAGE_SIZE, **NARROW).eval()
    seen = []
    decoder.read_features.register_forward_hook(lambda *given: seen.append(given[2].shape[0]))
    decoder(random_features(decoder, 3), ROIS.repeat_interleave(4, 0))
    assert seen == [3]


@pytest.mark.parametrize(
    ("stride", "wanted", "expected"),
    [(4, None, 4), (8, None, 4), (16, None, 4), (32, None, 8), (2, None, 2), (8, 8, 8), (8, 4, 4), (8, 2, 2)],
)
def test_the_map_is_as_fine_as_map_stride_says(stride, wanted, expected):
    decoder = UNetDecoder([8], [stride], (64, 96), channels=4, depth=1, map_stride=wanted).eval()
    output = decoder([torch.randn(1, 8, 64 // stride, 96 // stride)], torch.tensor([[0.0, 9, 9, 40, 50]]))
    assert decoder.map_stride == expected
    assert output.logits.shape == (1, 3, 64 // expected, 96 // expected)
    assert output.auxiliary["embeddings"].shape[2:] == output.logits.shape[2:]
    assert output.inside.shape == (1, 64 // expected, 96 // expected)


def test_embeddings_are_what_the_last_layer_sees_in_either_frame():
    for frame, size in (("image", (16, 24)), ("roi", (20, 12))):
        torch.manual_seed(0)
        decoder = UNetDecoder([8], [4], IMAGE_SIZE, frame=frame, output_size=(20, 12), **NARROW).eval()
        output = decoder(random_features(decoder, 3), torch.tensor([[0.0, 9, 9, 40, 50]]))
        assert output.auxiliary["embeddings"].shape == (1, 8, *size)
        torch.testing.assert_close(
            decoder.predict(output.auxiliary["embeddings"]), output.logits, atol=1e-5, rtol=1e-5
        )


def test_a_prior_is_read_as_further_maps_and_matters():
    torch.manual_seed(0)
    decoder = UNetDecoder([8], [8], IMAGE_SIZE, prior=True, **NARROW).eval()
    assert decoder.prompts == ("prior",)
    assert decoder.read_rois.in_channels == 7 + 3
    features = random_features(decoder, 3)
    prior = torch.rand(3, 3, *decoder.output_size)  # stride 4, the features' 8
    given = []
    decoder.read_rois.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    one = decoder(features, ROIS, Context(prior=prior)).logits
    other = decoder(features, ROIS, Context(prior=1 - prior)).logits
    torch.testing.assert_close(given[0][:, 7:], F.avg_pool2d(prior, 2))
    assert (one - other).abs().max() > 1e-2
    with pytest.raises(ValueError, match="prior"):
        decoder(features, ROIS)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"depth": 0}, "model.depth must be 1 to 3"),
        ({"depth": 4}, "model.depth must be 1 to 3, as often as the 8x12 map"),
        ({"map_stride": 16}, "model.map_stride must be one of 8, 4, 2"),
        ({"map_stride": 3}, "model.map_stride"),
        ({"map_stride": 1}, "model.map_stride"),
        ({"frame": "roi", "prior": True}, "model.prior"),
    ],
)
def test_impossible_options_are_user_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match="model") as error:
        UNetDecoder([8], [8], IMAGE_SIZE, **options)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


def test_an_odd_stride_cannot_be_halved():
    assert UNetDecoder([8], [7], (56, 56), depth=1).map_stride == 7
    with pytest.raises(UserError, match=r"one of 14, 7 \("):
        UNetDecoder([8], [14], (56, 56), depth=1, map_stride=4)
