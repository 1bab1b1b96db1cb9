"""RoiAlignDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from __future__ import annotations

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features
from torch import nn

from roiseg.common.errors import UserError
from roiseg.decoders.layers.convolution import group_count
from roiseg.decoders.roialign import RoiAlignDecoder

ROIS = torch.tensor([
    [0, 3.5, 4.25, 40.0, 60.0],
    [0, 30.0, 10.0, 95.5, 50.5],
    [2, -4.0, -6.0, 33.0, 30.0],  # over the border
    [2, 50.0, 20.0, 54.0, 61.0],  # narrow
    [2, 0.0, 0.0, 96.0, 64.0],
])  # fmt: skip


def test_default_configuration_has_the_parameters_counted_by_hand():
    decoder = RoiAlignDecoder([1024], [8], IMAGE_SIZE)
    reduce = 1024 * 128 + 128  # 1x1 convolution with bias
    trunk = 4 * (128 * 128 * 9 + 2 * 128)  # 3x3 convolutions without bias, GroupNorm scale and shift
    upsample = (128 * 64 * 9 + 2 * 64) + (64 * 32 * 9 + 2 * 32)
    predict = 32 * 3 + 3
    assert reduce + trunk + upsample + predict == 814_499
    assert sum(p.numel() for p in decoder.parameters()) == 814_499


@pytest.mark.parametrize(
    ("mid", "least", "widths"),
    [(128, 32, [64, 32, 32]), (16, 32, [16, 16, 16]), (12, 1, [6, 3, 1]), (1, 1, [1, 1, 1])],
)
def test_upsampling_halves_the_width_down_to_min_channels(mid, least, widths):
    decoder = RoiAlignDecoder(
        [4], [8], IMAGE_SIZE, roi_size=(7, 7), mid_channels=mid, min_channels=least, depth=0
    )
    convolutions = [m for m in decoder.upsample.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == widths


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"output_size": (57, 56)}, "model.output_size"),
        ({"output_size": (28, 56)}, "model.output_size"),
        ({"output_size": (7, 7)}, "model.output_size"),
        ({"output_size": (42, 42)}, "model.output_size"),
        ({"roi_size": (0, 14)}, "model.roi_size"),
        ({"roi_size": (-14, -14)}, "model.roi_size"),
    ],
)
def test_impossible_options_are_user_errors_that_name_the_field(options, field):
    with pytest.raises(UserError, match="model") as error:
        RoiAlignDecoder([8], [4], IMAGE_SIZE, **options)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreachable_output_size_lists_reachable_ones():
    with pytest.raises(UserError, match=r"\[14, 14\], \[28, 28\], \[56, 56\], \[112, 112\]"):
        RoiAlignDecoder([8], [4], IMAGE_SIZE, output_size=(60, 60))


def test_the_order_of_layers_matters_only_through_their_own_weights():
    """Layers are summed: swapping two layers together with their reductions changes nothing."""
    torch.manual_seed(0)
    one = RoiAlignDecoder([6, 10], [4, 8], IMAGE_SIZE, mid_channels=8, depth=1).eval()
    other = RoiAlignDecoder([10, 6], [8, 4], IMAGE_SIZE, mid_channels=8, depth=1).eval()
    state = one.state_dict()
    swapped = {
        k.replace("lateral.0", "lateral.x").replace("lateral.1", "lateral.0"): v for k, v in state.items()
    }
    other.load_state_dict({k.replace("lateral.x", "lateral.1"): v for k, v in swapped.items()})
    features = random_features(one, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            other(features[::-1], ROIS).logits, one(features, ROIS).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("channels", "groups"), [(128, 8), (12, 4), (6, 2), (7, 1), (1, 1), (8, 8)])
def test_groups_divide_the_channels(channels, groups):
    assert group_count(channels) == groups
