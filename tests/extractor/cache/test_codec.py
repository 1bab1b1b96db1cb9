import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roiseg.extractor.cache.codec import Half, Int8

SHAPES = [(3, 5, 7), (1, 1, 1), (16, 4, 4)]


def features(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((batch, *shape), generator=generator) * 3 for shape in SHAPES]


@pytest.mark.parametrize("codec", [Half(), Int8()])
def test_a_row_is_as_long_as_said_and_every_layer_comes_back_in_place(codec):
    rows = codec.pack(features())
    assert rows.dtype == torch.uint8
    assert rows.shape == (2, sum(codec.length(shape) for shape in SHAPES))
    for given_, back in zip(features(), codec.unpack(rows, SHAPES), strict=True):
        assert (back.dtype, back.shape) == (torch.float32, given_.shape)
        assert (back - given_).abs().max() < 0.05
    for image in range(2):  # rows do not depend on each other
        assert torch.equal(rows[image : image + 1], codec.pack([f[image : image + 1] for f in features()]))
    none = codec.pack(features(batch=0))
    assert none.shape == (0, rows.shape[1])
    assert [f.shape[0] for f in codec.unpack(none, SHAPES)] == [0, 0, 0]


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_half_keeps_what_numpy_keeps(seed, scale):
    feature = features(seed)[0] * scale
    back = Half().unpack(Half().pack([feature]), SHAPES[:1])[0]
    np.testing.assert_array_equal(back.numpy(), feature.numpy().astype(np.float16).astype(np.float32))


@given(st.integers(0, 10_000), st.floats(1e-3, 1e4))
def test_int8_errs_by_half_a_step_of_its_channel(seed, scale):
    feature = features(seed)[0] * scale
    back = Int8().unpack(Int8().pack([feature]), SHAPES[:1])[0]
    span = feature.amax((2, 3)) - feature.amin((2, 3))
    assert ((back - feature).abs().amax((2, 3)) <= span / 510 * 1.001 + 1e-6).all()


def test_half_saturates_and_int8_keeps_a_constant_channel():
    back = Half().decode(Half().encode(torch.tensor([[[[1e9, -1e9]]]])), (1, 1, 2))
    assert back.flatten().tolist() == [65504.0, -65504.0]
    for value in (0.0, -7.25, 1e-38):
        feature = torch.full((1, 2, 3, 3), value)
        assert torch.equal(Int8().decode(Int8().encode(feature), (2, 3, 3)), feature)
