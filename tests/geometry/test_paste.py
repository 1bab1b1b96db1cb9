import math

import numpy as np
import pytest
import torch
from helpers.bilinear import paste
from hypothesis import given
from hypothesis import strategies as st

from roiseg.geometry.paste import paste_crop, paste_masks

SIZE = (20, 26)
BOXES = {
    "inside": [3.2, 4.7, 20.3, 15.1], "whole pixels": [2, 3, 12, 9], "the whole canvas": [0, 0, 26, 20],
    "over the left and top border": [-8.3, -5.5, 9.4, 7.7],
    "over the right and bottom border": [15, 11, 40, 33], "larger than the canvas": [-30, -40, 60, 50],
    "outside to the right": [30, 2, 50, 10], "outside to the left": [-50, 2, -30, 10],
    "below": [2, 25, 10, 40], "between two pixel centres": [4.6, 4.6, 5.4, 5.4], "one pixel": [7, 8, 8, 9],
    "without width": [4.5, 2, 4.5, 9], "inverted": [20.3, 15.1, 3.2, 4.7],
}  # fmt: skip


def random_mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def compare(mask, box, within=None):
    """All ways of pasting with the reference."""
    want = paste(mask.double().numpy(), box, SIZE, within)
    box, limits = np.float32(box), None if within is None else np.float32(within)
    tensor = None if within is None else torch.from_numpy(limits[None])
    got = paste_masks(mask[None], torch.from_numpy(box[None]), SIZE, within=tensor)[0]
    np.testing.assert_allclose(got.numpy(), want, atol=2e-5)
    values, (x1, y1, x2, y2) = paste_crop(mask, box, SIZE, limits)
    assert values.shape == (y2 - y1, x2 - x1)
    np.testing.assert_allclose(values, want[y1:y2, x1:x2], atol=2e-5)
    want[y1:y2, x1:x2] = 0
    assert not want.any()  # nothing lies outside the window


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (28, 2)])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_equals_the_naive_reference(box, shape):
    compare(random_mask(*shape), box)


@pytest.mark.parametrize("name", ["the whole canvas", "inside", "over the right and bottom border"])
@pytest.mark.parametrize("within", BOXES.values(), ids=BOXES)
def test_nothing_is_pasted_outside_of_a_second_box(name, within):
    compare(random_mask(5, 7), BOXES[name], within)


@given(st.tuples(*[st.floats(-40, 60, width=32)] * 4), st.integers(1, 6), st.integers(1, 6))
def test_any_box_pastes_as_the_reference_does(corners, rows, columns):
    # 1/64 pixel off any half pixel: no centre lies within rounding of an edge
    x1, x2 = sorted(math.floor(v * 4) / 4 + 1 / 64 for v in corners[::2])
    y1, y2 = sorted(math.floor(v * 4) / 4 + 1 / 64 for v in corners[1::2])
    mask = random_mask(rows, columns)
    compare(mask, (x1, y1, x2, y2))


def test_gradients_with_respect_to_the_masks_are_right():
    masks = random_mask(3, 2, 3).double().requires_grad_()
    boxes = torch.tensor([[1.0, 2, 6, 5], [-3, -2, 4, 3], [20, 20, 30, 30]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: paste_masks(m, boxes, (6, 7)), masks)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision_masks_are_pasted_to_the_same_pixels(dtype, tolerance):
    masks = random_mask(1, 6, 6)
    box = torch.tensor([[601.3, 403.8, 631.2, 466.1]])  # bfloat16 itself only knows 600, 604, 632, 466
    for boxes, within in ((box, None), (torch.tensor([[0.0, 0, 640, 480]]), box)):
        got = paste_masks(masks.to(dtype), boxes, (480, 640), within=within)
        assert got.dtype == dtype
        want = paste_masks(masks.to(dtype).float(), boxes, (480, 640), within=within)
        torch.testing.assert_close(got.float(), want, atol=tolerance, rtol=0)
