"""Crops of small ROIs: where they lie, and that they show what the image shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.data.tta import TTA
from roiseg.geometry.transform import Letterbox

LETTERBOXES = [Letterbox((64, 96)), Letterbox((416, 416), "topleft"), Letterbox((128, 64), keep_aspect=False)]


@st.composite
def pictures(draw):
    """(H, W) of an image and boxes [R, 4] in it."""
    size = draw(st.tuples(st.integers(30, 900), st.integers(30, 900)))
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        spans = []
        for side in size[::-1]:
            start = draw(st.floats(0, side - 2))
            spans.append((start, draw(st.floats(start + 1, side))))
        boxes.append([spans[0][0], spans[1][0], spans[0][1], spans[1][1]])
    return size, np.array(boxes, np.float32).reshape(-1, 4)


@pytest.mark.parametrize("letterbox", LETTERBOXES, ids=["wide", "yolox", "stretched"])
@given(picture=pictures(), longest=st.floats(0.05, 0.75))
@settings(max_examples=60, deadline=None)
def test_every_small_roi_lies_wholly_in_one_crop_of_each_factor(letterbox, picture, longest):
    size, boxes = picture
    factors = (1.5, 2.0, 3.0)
    seen = np.zeros((len(factors), len(boxes)), int)
    fit = letterbox.fit(*size)
    for transform, rows in TTA(False, factors, longest).plan_crops(letterbox, size, boxes):
        zoom = transform.scale / fit.scale
        factor = int(np.argmin(np.abs(np.array(factors) - zoom)))
        enlarged = np.array(size) * (transform.scale_y, transform.scale_x)
        exact = np.array(size) * (fit.scale_y, fit.scale_x) * factors[factor]
        np.testing.assert_allclose(enlarged, exact.clip(1), atol=0.51)  # drawn in whole pixels
        seen[factor, rows] += 1
        inside = transform.boxes(boxes[rows])
        height, width = letterbox.size
        assert (inside[:, :2] >= -0.51).all()  # a shift is a whole pixel
        assert (inside[:, 2] <= width + 0.51).all() and (inside[:, 3] <= height + 0.51).all()
        assert transform.shift_x == round(transform.shift_x) and transform.shift_y == round(transform.shift_y)
    whole = fit.boxes(boxes)
    shares = ((whole[:, 2:] - whole[:, :2]) / letterbox.size[::-1]).max(axis=1, initial=0)
    for number, factor in enumerate(factors):
        clear = np.abs(shares * factor - longest) > 1e-4
        assert (seen[number][clear] == (shares * factor <= longest)[clear]).all()


def test_a_crop_shows_the_part_of_the_image_that_its_transform_says_and_neighbours_share_one():
    """An image whose colours are its coordinates."""
    rows, columns = np.mgrid[:240, :255].astype(np.uint8)
    picture = np.stack([columns, rows, np.zeros_like(rows)], axis=2)
    letterbox = Letterbox((80, 96))
    boxes = np.float32([[5, 5, 25, 30], [22, 7, 40, 33], [120, 100, 150, 130], [230, 200, 254, 239]])
    crops = TTA(False, (2.0, 3.0), 0.5).plan_crops(letterbox, (240, 255), boxes)
    assert [rows.tolist() for _, rows in crops][:3] == [[0, 1], [2], [3]]
    for transform, inside in crops:
        shown = letterbox.apply(picture, transform)
        for box in boxes[inside]:
            centre = (box[:2] + box[2:]) / 2
            x, y = (transform.points(centre) - 0.5).round().astype(int)
            assert shown[y, x, :2] == pytest.approx(centre - 0.5, abs=3)
