"""Masks of one image, and the forms others want them in."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from roiseg.common.errors import UserError
from roiseg.inference.prediction import Prediction

SIZE = (40, 60)


def make(windows, seed=0, scores=None, size=SIZE, threshold=0.5):
    rng = np.random.default_rng(seed)
    crops = [rng.random((y2 - y1, x2 - x1), np.float32) for x1, y1, x2, y2 in windows]
    boxes = np.array(windows, np.float32).reshape(-1, 4)
    scores = np.ones(len(windows), np.float32) if scores is None else np.array(scores, np.float32)
    return Prediction(size, boxes, scores, scores / 2, windows, crops, None, threshold)


def painted(prediction, index):
    """The mask, pixel by pixel."""
    canvas = np.zeros(prediction.size, bool)
    x1, y1, _, _ = prediction.windows[index]
    for (y, x), value in np.ndenumerate(prediction.probabilities[index]):
        canvas[y1 + y, x1 + x] = value >= prediction.threshold
    return canvas


WINDOWS = [(3, 4, 20, 30), (10, 0, 60, 40), (59, 39, 60, 40), (5, 5, 5, 9)]


def test_it_prints_as_one_line_and_refuses_a_label_map_of_more_instances_than_can_be_numbered():
    assert repr(make(WINDOWS)) == f"Prediction(4 instances in an image of {SIZE[1]}x{SIZE[0]} pixels)"
    with pytest.raises(UserError, match=r"65,536 instances are more than a 16-bit label map"):
        make([(0, 0, 1, 1)] * 65_536).label_map()


def test_polygons_are_the_mask_when_filled():
    """cv2.fillPoly draws the pixels a contour goes through, too."""
    y, x = np.mgrid[:30, :40]
    round_ones = ((y - 10) ** 2 + (x - 9) ** 2 < 64) | ((y - 20) ** 2 + (x - 30) ** 2 < 36)
    prediction = replace(make([(5, 5, 45, 35)]), probabilities=[round_ones.astype(np.float32)])
    (pieces,) = prediction.to_polygons()
    assert len(pieces) == 2
    assert cv2.contourArea(pieces[0]) > cv2.contourArea(pieces[1])
    canvas = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(canvas, [piece.astype(np.int32) for piece in pieces], 1)
    np.testing.assert_array_equal(canvas.astype(bool), prediction.mask(0))


def test_nobody_and_an_empty_mask_are_such_in_every_form():
    nobody = make([])
    assert len(nobody) == 0 and nobody.masks().shape == (0, *SIZE)
    assert not nobody.label_map().any() and nobody.to_coco(1) == [] and nobody.to_polygons() == []
    empty = make([(2, 2, 9, 9)], threshold=1.5)
    assert coco_mask.area(empty.rle(0)) == 0 and empty.polygons(0) == []


corners = st.tuples(st.integers(0, 59), st.integers(0, 39), st.integers(1, 60), st.integers(1, 40))


@given(st.lists(corners, max_size=5))
def test_masks_lie_in_any_windows_and_their_encodings_are_read_by_pycocotools(corners):
    windows = [(x, y, min(60, x + w), min(40, y + h)) for x, y, w, h in corners]
    prediction = make(windows)
    assert prediction.masks().shape == (len(windows), *SIZE)
    for index in range(len(windows)):
        expected = painted(prediction, index)
        np.testing.assert_array_equal(prediction.mask(index), expected)
        np.testing.assert_array_equal(coco_mask.decode(prediction.rle(index)).astype(bool), expected)


def test_supervision_gets_boxes_masks_and_scores():
    pytest.importorskip("supervision", reason="the extra `supervision` is not installed")
    prediction = make(WINDOWS, scores=[0.1, 0.2, 0.3, 0.4])
    detections = prediction.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, prediction.boxes)
    np.testing.assert_array_equal(detections.mask, prediction.masks())
    np.testing.assert_array_equal(detections.confidence, prediction.scores)
    assert len(make([]).to_supervision()) == 0
