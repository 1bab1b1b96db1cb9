from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiseg.geometry.boxes import nms


def naive_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def naive_nms(boxes, scores, threshold, most):
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    chosen = []
    for i in order:
        if len(chosen) < most and all(naive_iou(boxes[i], boxes[j]) <= threshold for j in chosen):
            chosen.append(i)
    return chosen


@st.composite
def scenes(draw):
    count = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = rng.integers(0, 30, (count, 2))
    size = rng.integers(1, 25, (count, 2))
    scores = rng.choice([0.1, 0.3, 0.5, 0.9, 0.95], count)  # ties
    return np.concatenate([corner, corner + size], 1).astype(np.float32), scores.astype(np.float32)


@given(scenes(), st.sampled_from([0.1234, 0.45678, 0.7891]), st.integers(1, 30))
def test_chooses_what_a_naive_loop_chooses(scene, threshold, most):
    boxes, scores = scene
    wanted = naive_nms(boxes.astype(float).tolist(), scores.tolist(), threshold, most)
    assert nms(boxes, scores, threshold, most).tolist() == wanted


@given(scenes(), st.integers(1, 30))
def test_without_a_threshold_the_best_stay(scene, most):
    boxes, scores = scene
    wanted = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))[:most]
    assert nms(boxes, scores, None, most).tolist() == wanted


@given(scenes())
def test_what_is_chosen_is_chosen_again(scene):
    boxes, scores = scene
    kept = nms(boxes, scores, 0.45, 100)
    assert nms(boxes[kept], scores[kept], 0.45, 100).tolist() == list(range(len(kept)))


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 2, 1]], np.float32)  # IoU 1/2
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, 0.5, 10).tolist() == [0, 1]
    assert nms(boxes, scores, 0.4999, 10).tolist() == [0]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_no_boxes_give_no_indices(threshold):
    found = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), threshold, 10)
    assert found.shape == (0,)
    assert found.dtype == np.int64
