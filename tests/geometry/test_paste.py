from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import ellipse, person, rectangle, segmentation_mask
from hypothesis import given
from hypothesis import strategies as st

from roiseg.geometry.paste import binary_mask, paste_crop, paste_masks
from roiseg.geometry.roi_align import roi_align


def naive_paste(mask, box, size):
    """Loops in float64 over every pixel of the canvas."""
    rows, columns = mask.shape
    x1, y1, x2, y2 = (float(v) for v in box)
    canvas = np.zeros(size)
    for py in range(size[0]):
        for px in range(size[1]):
            x, y = px + 0.5, py + 0.5
            if not (x1 <= x < x2 and y1 <= y < y2):
                continue
            u = min(max((x - x1) / (x2 - x1) * columns - 0.5, 0.0), columns - 1.0)
            v = min(max((y - y1) / (y2 - y1) * rows - 0.5, 0.0), rows - 1.0)
            u0, v0 = math.floor(u), math.floor(v)
            u1, v1 = min(u0 + 1, columns - 1), min(v0 + 1, rows - 1)
            top = mask[v0, u0] * (u0 + 1 - u) + mask[v0, u1] * (u - u0)
            bottom = mask[v1, u0] * (u0 + 1 - u) + mask[v1, u1] * (u - u0)
            canvas[py, px] = top * (v0 + 1 - v) + bottom * (v - v0)
    return canvas


SIZE = (20, 26)
BOXES = {
    "inside": [3.2, 4.7, 20.3, 15.1],
    "whole pixels": [2, 3, 12, 9],
    "the whole canvas": [0, 0, 26, 20],
    "over the left and top border": [-8.3, -5.5, 9.4, 7.7],
    "over the right and bottom border": [15, 11, 40, 33],
    "larger than the canvas": [-30, -40, 60, 50],
    "outside to the right": [30, 2, 50, 10],
    "outside to the left": [-50, 2, -30, 10],
    "below": [2, 25, 10, 40],
    "between two pixel centres": [4.6, 4.6, 5.4, 5.4],
    "one pixel": [7, 8, 8, 9],
    "without width": [4.5, 2, 4.5, 9],
    "inverted": [20.3, 15.1, 3.2, 4.7],
}


def random_mask(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def compare(mask, box):
    """Both ways of pasting with the reference."""
    want = naive_paste(mask.double().numpy(), box, SIZE)
    got = paste_masks(mask[None], torch.tensor([box], dtype=torch.float32), SIZE)[0]
    np.testing.assert_allclose(got.numpy(), want, atol=2e-5)
    values, (x1, y1, x2, y2) = paste_crop(mask, np.float32(box), SIZE)
    assert values.shape == (y2 - y1, x2 - x1)
    np.testing.assert_allclose(values, want[y1:y2, x1:x2], atol=2e-5)
    want[y1:y2, x1:x2] = 0
    assert not want.any()  # nothing lies outside the window


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (28, 2)])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_equals_the_naive_reference(box, shape):
    compare(random_mask(*shape), box)


@given(st.tuples(*[st.floats(-40, 60, width=32)] * 4), st.integers(1, 6), st.integers(1, 6))
def test_any_box_pastes_as_the_reference_does(corners, rows, columns):
    # 1/64 pixel off any half pixel: no centre lies within rounding of an edge
    x1, x2 = sorted(math.floor(v * 4) / 4 + 1 / 64 for v in corners[::2])
    y1, y2 = sorted(math.floor(v * 4) / 4 + 1 / 64 for v in corners[1::2])
    mask = random_mask(rows, columns)
    compare(mask, (x1, y1, x2, y2))


def test_gradients_with_respect_to_the_masks_are_right():
    masks = random_mask(3, 3, 4).double().requires_grad_()
    boxes = torch.tensor([[1.0, 2, 8, 7], [-3, -2, 4, 5], [20, 20, 30, 30]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: paste_masks(m, boxes, (9, 10)), masks)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision_masks_are_pasted_to_the_same_pixels(dtype, tolerance):
    masks = random_mask(1, 6, 6)
    box = torch.tensor([[601.3, 403.8, 631.2, 466.1]])  # bfloat16 itself only knows 600, 604, 632, 466
    for boxes, within in ((box, None), (torch.tensor([[0.0, 0, 640, 480]]), box)):
        got = paste_masks(masks.to(dtype), boxes, (480, 640), within=within)
        assert got.dtype == dtype
        want = paste_masks(masks.to(dtype).float(), boxes, (480, 640), within=within)
        torch.testing.assert_close(got.float(), want, atol=tolerance, rtol=0)


# --- within: nothing outside of a second box -------------------------------------------------------

WINDOWS = {
    "the whole canvas": [0, 0, 26, 20],  # what an image-frame mask is stretched over
    "inside": BOXES["inside"],
    "larger than the canvas": BOXES["larger than the canvas"],
    "elsewhere": [15, 11, 40, 33],
}


def centres_within(box, size):
    """Which pixel centres lie in a box: bool [H, W]."""
    x1, y1, x2, y2 = box
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("within", BOXES.values(), ids=BOXES)
def test_within_keeps_the_pixels_whose_centre_it_holds_and_clears_all_others(window, within):
    mask = random_mask(5, 7)
    want = naive_paste(mask.double().numpy(), window, SIZE) * centres_within(within, SIZE)
    boxes, limits = torch.tensor([window]).float(), torch.tensor([within]).float()
    got = paste_masks(mask[None], boxes, SIZE, within=limits)[0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)
    values, (x1, y1, x2, y2) = paste_crop(mask, np.float32(window), SIZE, within=np.float32(within))
    assert values.shape == (y2 - y1, x2 - x1)
    np.testing.assert_allclose(values, want[y1:y2, x1:x2], atol=1e-5)
    want[y1:y2, x1:x2] = 0
    assert not want.any()  # nothing lies outside the cropped paste's pixels


@pytest.mark.parametrize("within", [None, *BOXES.values()], ids=["nothing", *BOXES])
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_a_binary_mask_is_the_whole_paste_at_its_threshold(within, threshold):
    mask, box = random_mask(6, 6, seed=2), np.float32([2, 1, 24.5, 18])
    limits = None if within is None else np.float32(within)
    boxes = torch.from_numpy(box)[None]
    tensor = None if within is None else torch.from_numpy(limits)[None]
    whole = paste_masks(mask[None], boxes, SIZE, within=tensor)[0].numpy()
    got = binary_mask(mask, box, SIZE, within=limits, threshold=threshold)
    assert got.shape == SIZE
    assert got.dtype == bool
    sure = np.abs(whole - threshold) > 1e-5  # the two sum in different orders
    np.testing.assert_array_equal(got[sure], (whole >= threshold)[sure])


# --- there and back -------------------------------------------------------------------------------

OUTLINES = {
    "a person": [person(90, 14, 140)],
    "an ellipse": [ellipse(80, 90, 45, 70)],
    "a slim person": [person(60, 30, 100)],
    "two parts": [rectangle(30, 20, 90, 70), ellipse(70, 130, 40, 30)],
}


@pytest.mark.parametrize("outline", OUTLINES.values(), ids=OUTLINES)
@pytest.mark.parametrize(("grid", "least"), [(28, 0.95), (56, 0.98)])
def test_cropping_and_pasting_a_real_outline_returns_it(outline, grid, least):
    truth = segmentation_mask(outline, 180, 170)
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    box = torch.tensor([[columns[0] - 2.0, rows[0] - 2.0, columns[-1] + 3.0, rows[-1] + 3.0]])
    picture = torch.from_numpy(truth).float()[None, None]
    crop = roi_align(picture, torch.cat([torch.zeros(1, 1), box], dim=1), (grid, grid), 1, 4)
    back = paste_masks(crop[:, 0], box, truth.shape)[0].numpy() > 0.5
    iou = (back & (truth > 0)).sum() / (back | (truth > 0)).sum()
    assert iou > least
