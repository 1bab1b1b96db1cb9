import math

import numpy as np
import pytest
import torch
from helpers.bilinear import read
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.geometry import roi_align as module
from roiseg.geometry.roi_align import resample, roi_align


def naive_bilinear(maps, y, x):
    """torchvision's `bilinear_interpolate`: nothing from one cell outside the map on, the border's before."""
    height, width = maps.shape[1:]
    return read(maps, x, y) if -1 <= y <= height and -1 <= x <= width else np.zeros(len(maps))


def naive_roi_align(features, rois, output_size, stride, sampling_ratio):
    """torchvision's `roi_align(aligned=True)` as loops in float64."""
    (out_h, out_w), n = output_size, sampling_ratio
    result = np.zeros((len(rois), features.shape[1], out_h, out_w))
    for r, (image, *box) in enumerate(np.asarray(rois, np.float64)):
        x1, y1, x2, y2 = (v / stride - 0.5 for v in box)
        xs = x1 + (np.arange(out_w * n) + 0.5) * (x2 - x1) / (out_w * n)
        ys = y1 + (np.arange(out_h * n) + 0.5) * (y2 - y1) / (out_h * n)
        samples = np.array([[naive_bilinear(features[int(image)], y, x) for x in xs] for y in ys])
        result[r] = samples.reshape(out_h, n, out_w, n, -1).mean(axis=(1, 3)).transpose(2, 0, 1)
    return result


def compare(features, rois, output_size, stride, sampling_ratio, atol=1e-5):
    got = roi_align(features, rois, output_size, stride, sampling_ratio)
    want = naive_roi_align(features.double().numpy(), rois.numpy(), output_size, stride, sampling_ratio)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.float().numpy(), want, atol=atol)


def random_map(batch, channels, height, width, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


# on a map of 6 x 9 cells at stride 4: 24 x 36 input pixels
BOXES = {
    "inside": [5.3, 4.1, 22.7, 19.9], "whole cells": [4, 8, 20, 16], "the whole map": [0, 0, 36, 24],
    "over the left and top border": [-7.5, -9.25, 12, 11],
    "over the right and bottom border": [20, 13, 44.5, 33], "larger than the map": [-20, -20, 60, 50],
    "far outside": [100, 100, 140, 130],
    "far outside on the other side": [-300, -200, -260, -150],
    "just outside": [36.1, 3, 39.9, 20], "tiny": [10.01, 10.02, 10.03, 10.05],
    "without width": [10, 4, 10, 20], "a point": [17, 9, 17, 9], "inverted": [22.7, 19.9, 5.3, 4.1],
    "inverted along one axis": [22.7, 4.1, 5.3, 19.9],
}  # fmt: skip


@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (7, 2), (4, 4)])
@pytest.mark.parametrize(("stride", "sampling_ratio"), [(1, 2), (2.5, 1), (4, 3), (16, 4)])
def test_equals_the_naive_reference_on_any_grid_and_stride(output_size, stride, sampling_ratio):
    rois = torch.tensor([[0.0, *box] for box in BOXES.values()])
    rois[:, 1:] *= stride / 4
    compare(random_map(1, 2, 6, 9), rois, output_size, stride, sampling_ratio)


boxes_ = st.lists(st.tuples(*[st.floats(-60, 90, width=32)] * 4), min_size=1, max_size=4)


@given(boxes_, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40)
def test_equals_the_naive_reference_for_any_box(boxes, sampling_ratio, out_h, out_w):
    # a whole number of 1/8 pixels: no sample falls within rounding of the cut one cell outside the map
    rois = torch.tensor([[0.0, *(math.floor(v * 8) / 8 + 1 / 64 for v in box)] for box in boxes])
    compare(random_map(1, 1, 5, 7), rois, (out_h, out_w), 8, sampling_ratio, atol=2e-5)


@pytest.mark.parametrize("images", [[0, 0, 1, 2, 2, 2], [1], [0, 2], [2, 2], [0], []])
def test_each_roi_reads_its_own_image_and_images_may_have_none(images):
    boxes = list(BOXES.values())
    rois = torch.tensor([[i, *boxes[n]] for n, i in enumerate(images)], dtype=torch.float32).reshape(-1, 5)
    features = random_map(3, 2, 6, 9).requires_grad_()
    result = roi_align(features, rois, (3, 5), 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    result.sum().backward()
    assert features.grad.any() == bool(images)
    compare(features.detach(), rois, (3, 5), 4, 2)


@pytest.mark.parametrize("images", [1, 3])
def test_many_rois_are_cropped_some_at_a_time(monkeypatch, images):
    features = random_map(images, 2, 6, 9).requires_grad_()
    rois = torch.tensor([[min(n // 5, images - 1), *box] for n, box in enumerate(BOXES.values())]).float()
    results = []
    for numbers in (1 << 18, 3 * 4 * 9 * 2, 1):  # all ROIs, 3 and 1 of them
        monkeypatch.setattr(module, "_CACHE_NUMBERS", numbers)
        result = roi_align(features, rois, (4, 5), 4)
        results.append((result, *torch.autograd.grad(result.square().sum(), features)))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_with_respect_to_the_features_are_right(batch):
    features = random_map(batch, 2, 4, 5).double().requires_grad_()
    rois = torch.tensor([[0, 1, 2, 14, 13.5], [0, -6, -7, 9, 8], [batch - 1, 12, 9, 26, 22]])
    assert torch.autograd.gradcheck(lambda f: roi_align(f, rois, (2, 3), 4), features)
    boxes = torch.tensor([[0.5, 1, 4.25, 3.5], [-2, 2, 3, 6]])[:batch]
    assert torch.autograd.gradcheck(lambda m: resample(m, boxes, (2, 3), 2), features)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_has_the_memory_format_of_the_features(memory_format):
    features = random_map(2, 3, 6, 9).contiguous(memory_format=memory_format).requires_grad_()
    rois = torch.tensor([[0, *BOXES["inside"]], [1, *BOXES["tiny"]]])
    (gradient,) = torch.autograd.grad(roi_align(features, rois, (2, 3), 4).sum(), features)
    assert gradient.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_half_precision_features_work(dtype, tolerance, batch):
    features = random_map(batch, 4, 6, 9)
    rois = torch.tensor([[0.0, *BOXES["inside"]], [batch - 1.0, *BOXES["larger than the map"]]])
    result = roi_align(features.to(dtype), rois, (4, 4), 4)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), roi_align(features, rois, (4, 4), 4), atol=tolerance, rtol=0)
    boxes = torch.tensor([[0.5, 1, 8.25, 5.5], [2, 2, 5, 5]])[:batch]
    result, exact = (resample(maps, boxes, (4, 4), 2) for maps in (features.to(dtype), features))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), exact, atol=tolerance, rtol=0)


# on a map of 6 x 9 cells, in cells of it
CELL_BOXES = {name: [v / 4 for v in box] for name, box in BOXES.items()}


@pytest.mark.parametrize("output_size", [(4, 4), (1, 5), (13, 2)])
@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_resample_equals_the_naive_reference_with_a_map_of_its_own_for_each_box(output_size, sampling_ratio):
    maps = random_map(len(CELL_BOXES), 2, 6, 9, seed=3)
    boxes = torch.tensor(list(CELL_BOXES.values()))
    got = resample(maps, boxes, output_size, sampling_ratio)
    rois = np.insert(boxes.numpy(), 0, np.arange(len(boxes)), axis=1)
    want = naive_roi_align(maps.double().numpy(), rois, output_size, 1, sampling_ratio)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    assert resample(maps[:0], boxes[:0], output_size).shape == (0, 2, *output_size)
