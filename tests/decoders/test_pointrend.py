"""PointRendDecoder's own tests; what it shares with all decoders is in test_every_decoder.py."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.bilinear import read
from helpers.decoders import IMAGE_SIZE, ROIS, random_features
from torch.nn import functional as F

from roiseg.decoders.coarse import CoarseDecoder
from roiseg.decoders.pointrend import PointRendDecoder


def pointrend(coarse=CoarseDecoder, of_coarse=None, in_channels=(3,), strides=(4,), seed=0, **options):
    """A narrow decoder whose logits are far from 0 and from each other."""
    torch.manual_seed(seed)
    if coarse is CoarseDecoder:
        of_coarse = {"mid_channels": 4, "hidden": 8, **(of_coarse or {})}
    first = partial(coarse, **(of_coarse or {}))
    decoder = PointRendDecoder(in_channels, strides, IMAGE_SIZE, first, **{"mid_channels": 6, **options})
    decoder.head.predict.weight.data.normal_()
    if coarse is CoarseDecoder:
        decoder.coarse.predict.weight.data.normal_()
    return decoder.eval()


def naive_label(decoder, fine, box, coarse, x, y):
    """The point head at (x, y) in 0..1 of a ROI."""
    x1, y1, x2, y2 = box
    stride, (h, w) = decoder.fuse.stride, coarse.shape[1:]
    value = read(fine, (x1 + x * (x2 - x1)) / stride - 0.5, (y1 + y * (y2 - y1)) / stride - 0.5)
    guess = read(coarse, x * w - 0.5, y * h - 0.5)
    for layer in decoder.head.layers:
        joined = np.concatenate([value, guess])
        value = np.maximum(layer.weight.detach().numpy() @ joined + layer.bias.detach().numpy(), 0)
    predict = decoder.head.predict
    return predict.weight.detach().numpy() @ np.concatenate([value, guess]) + predict.bias.detach().numpy()


def naive_refine(decoder, fine, box, coarse, size, points):
    """Double the grid up to `size`; at each size label the least certain cells again, or all if they are few."""
    logits, doubled = coarse, False
    while True:
        h, w = logits.shape[1:]
        last, whole = h == size, h * w <= points
        if (whole and (last or 4 * h * w > points)) or (not whole and doubled):
            ranked = np.sort(logits, axis=0)
            order = np.argsort((ranked[-1] - ranked[-2]).ravel(), kind="stable")
            logits = logits.copy()
            for place in order[:points]:
                row, column = divmod(int(place), w)
                x, y = (column + 0.5) / w, (row + 0.5) / h
                logits[:, row, column] = naive_label(decoder, fine, box, coarse, x, y)
        if last:
            return logits
        finer = F.interpolate(torch.from_numpy(logits)[None], scale_factor=2, mode="bilinear")
        logits, doubled = finer[0].numpy(), True


@pytest.mark.parametrize("points", [5, 10, 30, 64, 1000])
def test_evaluation_equals_the_definition_in_loops(points):
    decoder = pointrend(
        of_coarse={"output_size": (2, 3)}, output_size=(16, 24), subdivision_points=points, depth=2
    ).double()
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        got = decoder(features, ROIS).logits
        coarse, fine = decoder.coarse(features, ROIS).logits, decoder.fuse(features)
    for r, (image, *box) in enumerate(ROIS.tolist()):
        expected = naive_refine(decoder, fine[int(image)].numpy(), box, coarse[r].numpy(), 16, points)
        np.testing.assert_allclose(got[r].numpy(), expected, atol=1e-4)  # places are float32


def test_training_labels_the_points_it_names_and_upsamples_the_coarse_logits():
    decoder = pointrend(output_size=(14, 14), train_points=20).double().train()
    features = [f.double() for f in random_features(decoder, 3)]
    with torch.no_grad():
        output = decoder(features, ROIS)
        coarse, fine = decoder.coarse(features, ROIS).logits, decoder.fuse(features)
    points, coords = output.auxiliary["points"], output.auxiliary["point_coords"]
    assert (points.shape, coords.shape) == ((3, 3, 20), (3, 20, 2))
    for r, (image, *box) in enumerate(ROIS.tolist()):
        for p, (x, y) in enumerate(coords[r].tolist()):
            expected = naive_label(decoder, fine[int(image)].numpy(), box, coarse[r].numpy(), x, y)
            np.testing.assert_allclose(points[r, :, p].numpy(), expected, atol=1e-4)
    expected = F.interpolate(coarse, (14, 14), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output.logits, expected, atol=1e-12, rtol=0)


def test_147_of_196_training_points_are_the_most_uncertain_of_588_and_49_are_any():
    decoder = pointrend().train()
    features = random_features(decoder, 3)
    with torch.no_grad():
        torch.manual_seed(5)
        coords = decoder(features, ROIS).auxiliary["point_coords"]
        coarse = decoder.coarse(features, ROIS).logits.numpy()
    torch.manual_seed(5)
    drawn, uniform = torch.rand(3, 588, 2), torch.rand(3, 49, 2)
    assert torch.equal(coords[:, 147:], uniform)
    for r in range(3):
        values = np.sort([read(coarse[r], x * 7 - 0.5, y * 7 - 0.5) for x, y in drawn[r].tolist()], axis=1)
        doubt = np.argsort(values[:, -1] - values[:, -2])
        assert sorted(coords[r, :147].tolist()) == sorted(drawn[r][doubt[:147]].tolist())
