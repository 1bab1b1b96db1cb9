"""FiLM: features modulated by the pixel size."""

import math

import pytest
import torch
from tiny_run import with_random_weights

from roiseg.decoders.layers.extra_inputs import Film


def features(images=3, channels=(6, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, c, 8 >> n, 12 >> n, generator=generator) for n, c in enumerate(channels)]


def make(base=2.0, channels=(6, 10), seed=0, **options):
    torch.manual_seed(seed)
    return Film(channels, base, **options)


def test_equals_one_plus_gamma_times_the_feature_plus_beta_written_out():
    film, sizes, given = with_random_weights(make(), 1.0, seed=1), torch.tensor([0.5, 2.0, 7.3]), features()
    one, _, two = film.network
    got = film(given, sizes)
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
    for got, before in zip(make()(given, torch.full((3,), size)), given, strict=True):
        assert got.shape == before.shape
        assert 0 < (got - before).abs().max() < 0.2 * (1 + abs(math.log(size / 2.0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_stay_so(dtype):
    film = with_random_weights(make(), 1.0, seed=1).to(dtype)
    sizes = torch.tensor([0.5, 2.0, 7.3])
    got = film([f.to(dtype) for f in features()], sizes)
    assert {f.dtype for f in got} == {dtype}
    for rough, exact in zip(got, film.float()(features(), sizes), strict=True):
        torch.testing.assert_close(rough.float(), exact, atol=0.3, rtol=0.05)
