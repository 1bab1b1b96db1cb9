"""The heads of PointRend's coarse mask and of Mask R-CNN, against their definitions."""

import pytest
import torch
from helpers.bilinear import read
from helpers.decoders import IMAGE_SIZE, ROIS, random_features
from torch import nn
from torch.nn import functional as F

from roiseg.decoders.coarse import CoarseDecoder
from roiseg.decoders.maskrcnn import MaskRcnnDecoder


def test_the_coarse_head_equals_the_definition():
    """Points of a regular grid, read one by one; blocks of 2x2; matrix products; in float64."""
    torch.manual_seed(0)
    decoder = CoarseDecoder([3], [4], IMAGE_SIZE, output_size=(2, 3), mid_channels=2, hidden=5).double()
    decoder.predict.weight.data.normal_()
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        got = decoder(features, ROIS[1:]).logits
        for r, (image, x1, y1, x2, y2) in enumerate(ROIS[1:].tolist()):
            plane = decoder.crop.lateral[0](features[0])[int(image)]
            points = torch.zeros(2, 4, 6, dtype=torch.float64)
            for row in range(4):
                for column in range(6):
                    x, y = x1 + (column + 0.5) * (x2 - x1) / 6, y1 + (row + 0.5) * (y2 - y1) / 4
                    there = read(plane.numpy(), x / 4 - 0.5, y / 4 - 0.5)
                    points[:, row, column] = torch.from_numpy(there)
            blocks = F.conv2d(points, decoder.shrink.weight, decoder.shrink.bias, stride=2)
            hidden = blocks.clamp(min=0).flatten()
            for layer in (decoder.first, decoder.second):
                hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
            expected = (decoder.predict.weight @ hidden + decoder.predict.bias).reshape(3, 2, 3)
            torch.testing.assert_close(got[r], expected, atol=1e-4, rtol=1e-5)


def test_weights_start_as_published():
    torch.manual_seed(0)
    head = MaskRcnnDecoder([8], [4], IMAGE_SIZE).head
    layers = [m for m in head if not isinstance(m, nn.ReLU)]
    assert all(not m.bias.any() for m in layers)
    for layer, outputs in zip(layers[:-1], [256 * 9] * 4 + [256 * 4], strict=True):  # MSRA, over the outputs
        assert layer.weight.std().item() == pytest.approx((2 / outputs) ** 0.5, rel=0.02)
    assert layers[-1].weight.std().item() == pytest.approx(0.001, rel=0.1)


def test_the_head_labels_each_crop_as_the_definition_says():
    torch.manual_seed(0)
    decoder = MaskRcnnDecoder([3], [4], IMAGE_SIZE, roi_size=(3, 4), mid_channels=2, depth=1).double()
    decoder.head[-1].weight.data.normal_()
    conv, _, deconv, _, predict = decoder.head
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        crops = decoder.crop(features, ROIS[1:])
        cells = F.conv2d(crops, conv.weight, conv.bias, padding=1).clamp(min=0)
        finer = F.conv_transpose2d(cells, deconv.weight, deconv.bias, stride=2).clamp(min=0)
        expected = F.conv2d(finer, predict.weight, predict.bias)
        got = decoder(features, ROIS[1:]).logits
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
