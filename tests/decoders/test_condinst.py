"""CondInstDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, ROIS, random_features

from roiseg.decoders.condinst import (
    CondInstDecoder,
    dynamic_head,
    filter_count,
    relative_coordinates,
    size_of_interest,
)

NARROW = {"mid_channels": 8, "mask_depth": 1, "roi_depth": 1}


def naive_head(values, numbers, outputs):
    """The dynamic head of one ROI, a matrix product a layer: its numbers are weights, biases, weights, ..."""
    for layer, rows in enumerate((8, 8, outputs)):
        ends = [rows * len(values), rows, len(numbers) - rows * len(values) - rows]
        weights, biases, numbers = numbers.split(ends)
        values = values.clamp(min=0) if layer else values
        values = torch.tensordot(weights.reshape(rows, -1), values, 1) + biases[:, None, None]
    assert not len(numbers)
    return values


@pytest.mark.parametrize("outputs", [1, 3])
def test_dynamic_head_equals_matrix_products(outputs):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 10, 2, 4, generator=generator, dtype=torch.float64)
    filters = torch.randn(3, filter_count(outputs), generator=generator, dtype=torch.float64)
    expected = torch.stack([naive_head(*roi, outputs) for roi in zip(inputs, filters, strict=True)])
    torch.testing.assert_close(dynamic_head(inputs, filters, outputs), expected, atol=1e-12, rtol=1e-12)


def test_size_of_interest_is_that_of_the_fcos_level():
    """The first ends at 64 pixels from the centre to the farthest edge."""
    sides = [(10, 20), (128, 100), (129, 10), (20, 256), (257, 256), (1024, 3), (1025, 3), (9000, 9000)]
    rois = torch.cat([torch.zeros(8, 3), torch.tensor(sides)], dim=1)
    assert size_of_interest(rois).tolist() == [64, 64, 128, 128, 256, 512, 1024, 1024]


def test_coordinates_point_from_the_pixel_to_the_roi_centre_x_first():
    rois = torch.tensor([[0.0, 10, 20, 50, 40], [0, 0, 0, 300, 100]])  # centres (30, 30) and (150, 50)
    coordinates = relative_coordinates(rois, (3, 5), stride=8)
    assert coordinates.shape == (2, 2, 3, 5)
    for number, (x, y, size) in enumerate([(30, 30, 64), (150, 50, 256)]):
        across, down = (x - (torch.arange(5) * 8 + 4)) / size, (y - (torch.arange(3) * 8 + 4)) / size
        expected = torch.stack([across.expand(3, 5), down[:, None].expand(3, 5)])
        torch.testing.assert_close(coordinates[number], expected)


def test_logits_are_those_of_the_head_enlarged_between_cell_borders():
    torch.manual_seed(0)
    coarse, fine = (CondInstDecoder([6], [4], IMAGE_SIZE, upsample=n, **NARROW).eval() for n in (1, 2))
    fine.load_state_dict(coarse.state_dict())
    features = random_features(coarse, 3)
    with torch.no_grad():
        small, large = (decoder(features, ROIS).logits for decoder in (coarse, fine))
    assert small.shape == (3, 3, 16, 24) and large.shape == (3, 3, 32, 48)
    s, large = small[0, 0], large[0, 0]
    torch.testing.assert_close(large[0, 0], s[0, 0])
    expected = (9 * s[3, 4] + 3 * s[3, 5] + 3 * s[4, 4] + s[4, 5]) / 16
    torch.testing.assert_close(large[7, 9], expected, atol=1e-6, rtol=1e-5)


def test_filters_start_as_large_as_the_source_s_would_and_biases_at_zero():
    torch.manual_seed(0)
    decoder = CondInstDecoder([8], [4], IMAGE_SIZE, mid_channels=256)
    spread = float(decoder.controller.weight.detach().std())
    assert spread == pytest.approx(0.03, rel=0.02)  # 0.01 * 3: 1 cell, not 9
    assert not decoder.controller.bias.any()
