import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roiseg.geometry import boxes as box_ops


@st.composite
def valid_boxes(draw, low=-500.0, high=1500.0):
    """Boxes [N, 4] with x1 <= x2, y1 <= y2."""
    shape = draw(st.integers(0, 6)), 2, 2
    corners = draw(hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32)))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def naive_intersection(a, b):
    return float(np.prod((np.minimum(a[2:], b[2:], dtype=float) - np.maximum(a[:2], b[:2])).clip(0)))


def naive_area(a):
    return naive_intersection(a, a)


def naive_iou(a, b):
    inter = naive_intersection(a, b)
    union = naive_area(a) + naive_area(b) - inter
    return inter / union if union > 0 else 0.0


@given(valid_boxes(), st.integers(1, 3000), st.integers(1, 3000))
def test_other_formats_are_the_documented_ones_and_come_back(boxes, height, width):
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    centered = box_ops.to_cxcywh(boxes)
    np.testing.assert_allclose(centered.T, [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], atol=1e-3)
    np.testing.assert_allclose(box_ops.from_cxcywh(centered), boxes, atol=1e-3)
    there = box_ops.normalize(boxes, (height, width))
    shares = [x1 / width, y1 / height, x2 / width, y2 / height]
    np.testing.assert_allclose(there.T, shares, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(box_ops.denormalize(there, (height, width)), boxes, rtol=1e-5, atol=1e-5)


def test_no_boxes_become_an_array_of_0_by_4_and_rows_of_other_than_four_numbers_are_refused():
    for empty in ([], np.zeros((0, 4)), np.zeros((0,)), [[]]):
        result = box_ops.as_boxes(empty)
        assert (result.shape, result.dtype) == ((0, 4), np.float32)
    for wrong in ([1, 2, 3], [[1, 2, 3, 4, 5]], 7.0):
        with pytest.raises(ValueError, match="4 numbers"):
            box_ops.as_boxes(wrong)


@given(valid_boxes(), valid_boxes())
def test_iou_equals_naive_loops(a, b):
    found = box_ops.iou(a, b)
    assert found.shape == (len(a), len(b))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            tiny = naive_area(p) + naive_area(q) < 2
            assert found[i, j] == pytest.approx(naive_iou(p, q), abs=1e-3 if tiny else 1e-4)


@given(valid_boxes(), st.integers(1, 900), st.integers(1, 900))
def test_clipped_boxes_cover_exactly_what_lies_in_the_image(boxes, height, width):
    clipped = box_ops.clip(boxes, (height, width))
    assert (clipped >= 0).all() and (clipped <= [width, height] * 2).all()
    canvas = np.array([0, 0, width, height])
    for box, cut in zip(boxes, clipped, strict=True):
        assert naive_area(cut) == pytest.approx(naive_intersection(box, canvas), rel=1e-6)


@given(valid_boxes(low=0.0, high=100.0))
def test_crowding_is_the_summed_cover_by_others_cut_at_one(boxes):
    found = box_ops.crowding(boxes)
    for i, box in enumerate(boxes):
        cover = sum(naive_intersection(box, other) for j, other in enumerate(boxes) if j != i)
        want = min(1.0, cover / naive_area(box)) if naive_area(box) > 0 else 0.0
        assert found[i] == pytest.approx(want, abs=1e-3)


def test_jitter_uses_the_whole_of_its_range_evenly():
    boxes = np.tile(np.float32([[100, 100, 200, 300]]), (20_000, 1))
    moved = box_ops.to_cxcywh(box_ops.jitter(boxes, np.random.default_rng(0), 0.1, 0.5))
    shift = (moved[:, :2] - [150, 200]) / [100, 200]
    grow = np.log(moved[:, 2:] / [100, 200]) / math.log(1.5)
    for values in (shift / 0.1, grow):  # uniform within -1..1: mean 0, variance 1/3
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.02)
        np.testing.assert_allclose(values.var(axis=0), 1 / 3, atol=0.02)
        assert 0.99 < np.abs(values).max() < 1.001
    assert np.abs(np.corrcoef(np.concatenate([shift, grow], axis=1).T) - np.eye(4)).max() < 0.03


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 2, 1]], np.float32)  # IoU 1/2
    scores = np.array([0.9, 0.8], np.float32)
    assert box_ops.nms(boxes, scores, 0.5, 10).tolist() == [0, 1]
    assert box_ops.nms(boxes, scores, 0.4999, 10).tolist() == [0]
    assert box_ops.nms(boxes[:0], scores[:0], 0.5, 10).dtype == np.int64
