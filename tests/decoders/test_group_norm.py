"""GroupNorm in bfloat16 on a CPU: torch's values, and gradients as near to float32's as torch's own."""

import pytest
import torch
from torch import nn

from roiseg.decoders.layers.convolution import GroupNorm, _Normalize


def maps(shape, dtype, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator) * 2 + offset
    return values.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def pair(groups, channels):
    ours, torchs = GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
    for norm in (ours, torchs):
        torch.manual_seed(1)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return ours, torchs


def gradients(apply, x, *parameters):
    normed = apply(x)
    seed = torch.randn(normed.shape, generator=torch.Generator().manual_seed(2))
    (normed.float().relu() * seed).sum().backward()
    result = normed.detach().float(), x.grad.float(), *(p.grad.clone() for p in parameters)
    for tensor in (x, *parameters):
        tensor.grad = None
    return result


@pytest.mark.parametrize("shape", [(3, 8, 5, 7), (2, 32, 6, 6), (1, 12, 4, 3), (2, 128, 5, 5)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_values_are_torchs_and_gradients_as_near_to_float32(shape, offset):
    ours, torchs = pair(4, shape[1])
    given = maps(shape, torch.bfloat16, offset)
    exact = gradients(torchs, given.detach().float().requires_grad_(), *torchs.parameters())
    theirs, got = (gradients(norm, given, *norm.parameters()) for norm in (torchs, ours))
    assert torch.equal(got[0], theirs[0])
    for value, other, true in zip(got[1:], theirs[1:], exact[1:], strict=True):
        error, usual = ((t - true).abs().max() / true.abs().max() for t in (value, other))
        assert error < max(2 * usual, 0.012)


@pytest.mark.parametrize(("groups", "channels"), [(1, 3), (2, 4), (8, 8)])
def test_the_formula_is_the_derivative(groups, channels):
    x = torch.randn(2, channels, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).float().requires_grad_()
    _, torchs = pair(groups, channels)
    want = gradients(torchs, x, *torchs.parameters())
    formula = lambda x: _Normalize.apply(x, torchs.weight, torchs.bias, groups, torchs.eps)  # noqa: E731
    got = gradients(formula, x, *torchs.parameters())
    for value, true in zip(got, want, strict=True):
        torch.testing.assert_close(value, true, atol=1e-5, rtol=1e-5)
