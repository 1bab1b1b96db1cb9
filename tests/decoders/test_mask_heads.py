"""The heads of PointRend's coarse mask and of Mask R-CNN, against their definitions in loops."""

import pytest
import torch
from helpers.bilinear import read
from helpers.decoders import IMAGE_SIZE, ROIS, random_features
from torch import nn

from roiseg.decoders.coarse import CoarseDecoder
from roiseg.decoders.maskrcnn import MaskRcnnDecoder


def test_the_coarse_head_equals_the_definition_in_loops():
    """Points of a regular grid, blocks of 2x2, matrix products: cell by cell in float64."""
    torch.manual_seed(0)
    decoder = CoarseDecoder([3], [4], IMAGE_SIZE, output_size=(2, 3), mid_channels=2, hidden=5).double()
    decoder.predict.weight.data.normal_()
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        got = decoder(features, ROIS[1:]).logits
        for r, (image, x1, y1, x2, y2) in enumerate(ROIS[1:].tolist()):
            plane = decoder.crop.lateral[0](features[0])[int(image)]
            blocks = torch.zeros(2, 2, 3, dtype=torch.float64)
            for row in range(2):
                for column in range(3):
                    block = decoder.shrink.bias.clone()
                    for dy in range(2):
                        for dx in range(2):
                            x = x1 + (2 * column + dx + 0.5) * (x2 - x1) / 6
                            y = y1 + (2 * row + dy + 0.5) * (y2 - y1) / 4
                            there = torch.from_numpy(read(plane.numpy(), x / 4 - 0.5, y / 4 - 0.5))
                            block += decoder.shrink.weight[:, :, dy, dx] @ there
                    blocks[:, row, column] = block.clamp(min=0)
            hidden = blocks.flatten()
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


def test_the_head_labels_each_crop_cell_by_cell_as_the_definition_says():
    torch.manual_seed(0)
    decoder = MaskRcnnDecoder([3], [4], IMAGE_SIZE, roi_size=(3, 4), mid_channels=2, depth=1).double()
    decoder.head[-1].weight.data.normal_()
    conv, _, deconv, _, predict = decoder.head
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        crops = decoder.crop(features, ROIS[1:])
        padded = nn.functional.pad(crops, (1, 1, 1, 1))
        expected = torch.zeros(2, 3, 6, 8, dtype=torch.float64)
        for r in range(2):
            for y in range(3):
                for x in range(4):
                    window = padded[r, :, y : y + 3, x : x + 3]
                    cell = ((conv.weight * window).sum((1, 2, 3)) + conv.bias).clamp(min=0)
                    for dy in range(2):
                        for dx in range(2):
                            finer = (cell @ deconv.weight[:, :, dy, dx] + deconv.bias).clamp(min=0)
                            label = predict.weight[:, :, 0, 0] @ finer + predict.bias
                            expected[r, :, 2 * y + dy, 2 * x + dx] = label
        got = decoder(features, ROIS[1:]).logits
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
