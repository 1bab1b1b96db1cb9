import numpy as np
import pytest
import torch
from helpers.bilinear import read
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.geometry.roi_align import point_sample


def naive(maps, points, map_index):
    """Bilinear interpolation between cell centres, one point at a time."""
    values = [
        [read(maps[int(owner)].numpy(), x - 0.5, y - 0.5) for x, y in own]
        for owner, own in zip(map_index, points.tolist(), strict=True)
    ]
    return torch.from_numpy(np.array(values).reshape(*points.shape[:2], maps.shape[1]))


def example(seed, images, channels, height, width, rois, count):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64)
    points = torch.rand(rois, count, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    map_index = torch.randint(0, images, (rois,), generator=generator)
    return maps, points * torch.tensor([width, height]), map_index


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=40)
def test_equals_the_definition_also_beyond_the_border_and_on_maps_one_cell_wide(seed, height, width, rois):
    maps, points, map_index = example(seed, 2, 3, height, width, rois, 9)
    got = point_sample(maps, points, map_index)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, naive(maps, points, map_index), atol=1e-12, rtol=0)


def test_gradient_is_the_numeric_one():
    maps, points, map_index = example(1, 2, 2, 4, 3, 3, 5)
    assert torch.autograd.gradcheck(lambda m: point_sample(m, points, map_index), maps.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_keep_their_type_and_read_the_right_place_of_a_wide_map(dtype):
    maps = torch.arange(600.0).remainder(200).expand(1, 1, 2, 600).to(dtype)
    points = torch.tensor([[[301.5, 1.0], [302.5, 0.5], [303.5, 1.5]]])
    got = point_sample(maps, points, torch.zeros(1, dtype=torch.long))
    assert got.dtype == dtype
    assert got.flatten().tolist() == [101, 102, 103]
