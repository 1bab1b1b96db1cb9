"""UNetDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import numpy as np
import pytest
import torch
from helpers import decoders
from helpers.decoders import IMAGE_SIZE, SMALL_UNET, random_features
from torch import nn
from torch.nn import functional as F

from roiseg.decoders.base import Context
from roiseg.decoders.unet import ROI_MAPS, UNet, UNetDecoder, roi_maps

NARROW = torch.tensor([[2, 50.0, 20.0, 51.0, 61.0]])  # relative coordinates reach the limit
ROIS = torch.cat([decoders.ROIS[::2], NARROW])


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
    decoder = UNetDecoder([6, 10], [8, 4], IMAGE_SIZE, **SMALL_UNET).double().eval()
    features = [f.double() for f in random_features(decoder, 3)]
    entered = []
    decoder.enter.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    decoder(features, ROIS.double())
    fusion, convolution = decoder.read_features
    weight = torch.cat([convolution.weight, decoder.read_rois.weight], dim=1)
    for number, roi in enumerate(ROIS):
        image = slice(int(roi[0]), int(roi[0]) + 1)
        maps = zip(features, fusion.reduce, strict=True)
        coarse, fine = (F.conv2d(feature[image], layer.weight, layer.bias) for feature, layer in maps)
        fused = fine + F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        together = torch.cat([fused, roi_maps(roi[None], IMAGE_SIZE, (16, 24)).double()], dim=1)
        expected = F.conv2d(together, weight, decoder.read_rois.bias, padding=1)[0]
        torch.testing.assert_close(entered[0][number], expected)


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


def test_a_prior_is_read_as_further_maps_and_matters():
    torch.manual_seed(0)
    decoder = UNetDecoder([8], [8], IMAGE_SIZE, prior=True, **SMALL_UNET).eval()
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


def naive_maps(rois, image_size, size):
    """The same in float64; the share inside by counting 100 points an axis in each cell."""
    height, width = image_size
    sides = zip(size, image_size, strict=True)
    points = [(np.arange(100 * n) + 0.5).reshape(n, 100) * side / (100 * n) for n, side in sides]
    maps = []
    for _, x1, y1, x2, y2 in rois.tolist():
        down, across = (
            ((p > a) & (p < b)).mean(1) for p, a, b in zip(points, (y1, x1), (y2, x2), strict=True)
        )
        y, x = points[0].mean(1)[:, None] - (y1 + y2) / 2, points[1].mean(1) - (x1 + x2) / 2
        relative = np.clip(x / (x2 - x1), -4, 4), np.clip(y / (y2 - y1), -4, 4)
        scaled = x / width, y / height, (x2 - x1) / width, (y2 - y1) / height
        maps.append(np.array(np.broadcast_arrays(np.outer(down, across), *scaled, *relative)))
    return np.array(maps)


def test_maps_equal_their_definition():
    for size in [(8, 12), (16, 24), (5, 7)]:
        maps = roi_maps(ROIS, (64, 96), size).numpy()
        assert maps.shape == (3, len(ROI_MAPS), *size)
        expected = naive_maps(ROIS, (64, 96), size)
        np.testing.assert_allclose(maps[:, 1:], expected[:, 1:], atol=1e-5)
        np.testing.assert_allclose(maps[:, 0], expected[:, 0], atol=0.011)  # as fine as points are counted


def test_empty_rois_and_half_precision_give_finite_float32_maps():
    assert roi_maps(torch.zeros(0, 5), (64, 96), (8, 12)).shape == (0, 7, 8, 12)
    maps = roi_maps(torch.tensor([[0.0, 20.0, 20.0, 20.0, 20.0]]).half(), (64, 96), (8, 12))
    assert torch.isfinite(maps).all()
    assert maps.dtype == torch.float32
