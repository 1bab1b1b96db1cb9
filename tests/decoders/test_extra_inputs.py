"""FiLM: features modulated by the pixel size. The detail branch: logits corrected by the image underneath."""

import math

import pytest
import torch
from tiny_run import with_random_weights
from torch.nn import functional as F

from roiseg.decoders.layers.extra_inputs import DetailBranch, Film


def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, c, 8 >> n, 12 >> n, generator=generator) for n, c in enumerate((6, 10))]


def make_film():
    torch.manual_seed(0)
    return Film((6, 10), 2.0)


def test_film_is_one_plus_gamma_times_the_feature_plus_beta():
    film, given = with_random_weights(make_film(), 1.0, seed=1), features()
    one, _, two = film.network
    got = film(given, sizes := torch.tensor([0.5, 2.0, 7.3]))
    for image, size in enumerate(sizes.tolist()):
        hidden = (one.weight.double()[:, 0] * math.log(size / 2.0) + one.bias.double()).clamp(min=0)
        values = two.weight.double() @ hidden + two.bias.double()
        gamma, beta = values.reshape(2, 16, 1, 1)
        for layer, channels in ((0, slice(0, 6)), (1, slice(6, 16))):
            want = given[layer][image].double() * (1 + gamma[channels]) + beta[channels]
            torch.testing.assert_close(got[layer][image].double(), want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [2.0, 0.1, 50.0])
def test_features_start_out_almost_unchanged(size):
    given = features()
    for got, before in zip(make_film()(given, torch.full((3,), size)), given, strict=True):
        assert got.shape == before.shape
        assert 0 < (got - before).abs().max() < 0.2 * (1 + abs(math.log(size / 2.0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_film_keeps_half_precision(dtype):
    film = with_random_weights(make_film(), 1.0, seed=1).to(dtype)
    sizes = torch.tensor([0.5, 2.0, 7.3])
    got = film([f.to(dtype) for f in features()], sizes)
    assert {f.dtype for f in got} == {dtype}
    for rough, exact in zip(got, film.float()(features(), sizes), strict=True):
        torch.testing.assert_close(rough.float(), exact, atol=0.3, rtol=0.05)


WINDOWS = torch.tensor([[0.0, 8, 4, 40, 36], [1, 0, 0, 64, 48], [1, 30, 10, 62, 42]])


def make_detail(width=6):
    torch.manual_seed(0)
    return DetailBranch(3, width)


def picture():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def coarse_logits():
    coarse = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)


def test_logits_start_out_almost_unchanged():
    logits = coarse_logits()
    corrected = make_detail(width=16)(logits, picture(), WINDOWS)
    assert corrected.shape == logits.shape
    assert (corrected.softmax(1) - logits.softmax(1)).abs().max() < 0.12
    assert (corrected - logits).abs().mean() < 0.15


def test_a_logit_depends_on_the_pixels_around_it_in_its_own_window_only():
    branch, logits = with_random_weights(make_detail(), 0.3, seed=1), coarse_logits()
    branch.colors = torch.nn.Identity()  # whose statistics, like those of the GroupNorms,
    branch.read[1] = branch.mix[1] = torch.nn.Identity()  # are of the whole crop
    image = picture()
    changed = image.clone()
    changed[1, :, 11, 31] += 1  # within the windows of the second and the third ROI
    moved = (branch(logits, changed, WINDOWS) - branch(logits, image, WINDOWS)).abs().amax(dim=1) > 1e-6
    assert not moved[0].any()
    cells = [
        (int((11 - y1) * 16 / (y2 - y1)), int((31 - x1) * 16 / (x2 - x1)))
        for _, x1, y1, x2, y2 in WINDOWS.tolist()
    ]
    for number in (1, 2):
        assert moved[number].any()
        rows, columns = moved[number].nonzero().T
        assert (rows - cells[number][0]).abs().max() <= 3  # two 3x3 convolutions and a bilinear sample
        assert (columns - cells[number][1]).abs().max() <= 3


def test_windows_that_rois_share_are_read_once_and_equal_a_window_for_each():
    branch, logits = with_random_weights(make_detail(), 0.3, seed=1), coarse_logits()
    rows = torch.tensor([0, 2, 2])
    shared = branch(logits, picture(), WINDOWS, rows)
    torch.testing.assert_close(shared, branch(logits, picture(), WINDOWS[rows]), atol=1e-5, rtol=1e-5)
