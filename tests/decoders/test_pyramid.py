"""PyramidDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

import pytest
import torch
from helpers.decoders import IMAGE_SIZE, random_features

from roiseg.decoders.pyramid import PyramidDecoder

NARROW = {"mid_channels": 8, "min_channels": 8, "depth": 1}


@pytest.mark.parametrize(("strides", "base_stride", "members"), [
    ((8,), 8, [[0], [], []]), ((8, 4, 16, 2), 8, [[0, 2], [1], [3]]), ((4, 2, 1), 8, [[0], [1], [2]]),
    ((8, 4, 16), 16, [[2], [0], [1]]), ((16, 32), 8, [[0, 1], [], []]),
])  # fmt: skip
def test_each_layer_joins_where_its_stride_fits(strides, base_stride, members):
    decoder = PyramidDecoder([4] * len(strides), strides, IMAGE_SIZE, base_stride=base_stride, **NARROW)
    assert [list(level) for level in decoder.members] == members


def seen_from(decoder, features, roi):
    """Which cells of the first layer change the logits of a ROI: x1, y1, x2, y2 in input pixels."""
    features = [f.clone().requires_grad_() for f in features]
    decoder(features, roi[None]).logits.abs().sum().backward()
    rows, columns = features[0].grad[0].abs().sum(0).nonzero().T
    stride = decoder.strides[0]
    return [int(v) * stride for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_a_margin_lets_the_decoder_see_beyond_the_roi():
    roi = torch.tensor([0, 32.0, 16.0, 64.0, 48.0])
    grid = {"roi_size": (8, 8), "output_size": (16, 16), "base_stride": 4}
    plain, wide = (PyramidDecoder([4], [4], IMAGE_SIZE, margin=m, **grid, **NARROW) for m in (0, 2))
    features = random_features(plain, 1)
    x1, y1, x2, y2 = seen_from(plain, features, roi)
    assert x1 >= 28 and y1 >= 12 and x2 <= 68 and y2 <= 52  # a cell around it, by bilinear sampling
    x1, y1, x2, y2 = seen_from(wide, features, roi)
    assert x1 <= 24 and y1 <= 8 and x2 >= 72 and y2 >= 56  # 2 of 8 cells of 4 pixels on each side


def test_the_margin_is_cut_off_where_the_roi_ends():
    """A decoder that copies its input draws the ROI itself, with and without a margin."""
    height, width = IMAGE_SIZE
    ramp = torch.arange(width // 4).float().expand(1, 1, height // 4, width // 4).clone()
    drawn = []
    for margin in (0, 2):
        grid = {"base_stride": 4, "mid_channels": 1, "depth": 0}
        decoder = PyramidDecoder([1], [4], IMAGE_SIZE, 2, (8, 8), (8, 8), margin=margin, **grid)
        decoder.join = decoder.whole = torch.nn.ModuleList([torch.nn.Identity()])
        decoder.whole = torch.nn.Identity()
        for module in (decoder.crops[0].lateral[0], decoder.predict):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
        logits = decoder([ramp], torch.tensor([[0, 32.0, 16.0, 64.0, 48.0]])).logits[0, 0]
        drawn.append(logits[:, 2:-2])  # the detour over the coarse grid blurs its ends
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-4)
