"""FiLM: features modulated by the pixel size."""

from __future__ import annotations

import math

import pytest
import torch

from roiseg.decoders.layers.film import Film


def features(images=3, channels=(6, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, c, 8 >> n, 12 >> n, generator=generator) for n, c in enumerate(channels)]


def make(base=2.0, channels=(6, 10), seed=0, **options):
    torch.manual_seed(seed)
    return Film(channels, base, **options)


def trained(film):
    """Weights well away from those it starts with."""
    generator = torch.Generator().manual_seed(1)
    for parameter in film.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    return film


def test_equals_one_plus_gamma_times_the_feature_plus_beta_written_out():
    film, sizes, given = trained(make()), torch.tensor([0.5, 2.0, 7.3]), features()
    one, _, two = film.network
    got = film(given, sizes)
    for image, size in enumerate(sizes.tolist()):
        hidden = (one.weight.double()[:, 0] * math.log(size / 2.0) + one.bias.double()).clamp(min=0)
        values = two.weight.double() @ hidden + two.bias.double()
        gamma, beta = values[:16], values[16:]
        for layer, channels in ((0, slice(0, 6)), (1, slice(6, 16))):
            want = (
                given[layer][image].double() * (1 + gamma[channels])[:, None, None]
                + beta[channels][:, None, None]
            )
            torch.testing.assert_close(got[layer][image].double(), want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [2.0, 0.1, 50.0])
def test_features_start_out_almost_unchanged(size):
    given = features()
    for got, before in zip(make()(given, torch.full((3,), size)), given, strict=True):
        assert got.shape == before.shape
        assert 0 < (got - before).abs().max() < 0.2 * (1 + abs(math.log(size / 2.0)))


def test_it_learns_a_gain_that_depends_on_the_pixel_size():
    """A task it alone can do: double the features of fine pixels, halve those of coarse ones."""
    film, (given,) = make(base=1.0, channels=(4,)), features(2, (4,))
    sizes = torch.tensor([0.5, 2.0])
    want = given * torch.tensor([2.0, 0.5])[:, None, None, None]
    optimizer = torch.optim.Adam(film.parameters(), lr=0.02)
    for _ in range(200):
        loss = (film([given], sizes)[0] - want).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_stay_so(dtype):
    film = trained(make()).to(dtype)
    sizes = torch.tensor([0.5, 2.0, 7.3])
    got = film([f.to(dtype) for f in features()], sizes)
    assert {f.dtype for f in got} == {dtype}
    for rough, exact in zip(got, film.float()(features(), sizes), strict=True):
        torch.testing.assert_close(rough.float(), exact, atol=0.3, rtol=0.05)
