import cv2
import numpy as np
import pytest

from roiseg.visualize.canvas import ROI_RED, instance_colors, write_image
from roiseg.visualize.overlays import OverlayColumn, two_row_overlay

ROW = 240
GRAY = 100


def column(height=120, width=160, boxes=((20, 30, 60, 100), (90, 40, 140, 110)), title="a.jpg", shrink=5):
    """A grey image; instance i fills its box, the prediction is the box shrunk by 5 pixels; all read-only."""
    truth = np.zeros((len(boxes), height, width), dtype=bool)
    prediction = truth.copy()
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        for masks, by in ((truth, 0), (prediction, shrink)):
            masks[index, max(y1 + by, 0) : max(y2 - by, 0), max(x1 + by, 0) : max(x2 - by, 0)] = True
    image = np.full((height, width, 3), GRAY, dtype=np.uint8)
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    for array in (image, boxes, truth, prediction):
        array.flags.writeable = False  # a write would raise
    return OverlayColumn(title, image, boxes, truth, prediction)


def two_rows(picture, row_height=ROW):
    """The two rows of a one-column overlay, cut down to the image (which is as high as a row here)."""
    below = picture.shape[0] - row_height
    above = picture.shape[0] - 2 * row_height - 3
    assert above > 0
    return picture[above : above + row_height], picture[below:]


def red(picture):
    return (picture == np.array(ROI_RED)).all(axis=-1)


@pytest.fixture
def rows():
    """The two rows of an image of 160 x 120 at twice the size."""
    return two_rows(two_row_overlay([column()], row_height=ROW))


def test_both_rows_have_the_asked_height_and_keep_the_aspect(rows):
    for row in rows:
        assert row.dtype == np.uint8
        assert (row[[0, -1], -320:] == GRAY).all()
        assert (row[:, -321] != GRAY).all()


def test_boxes_are_pure_red_and_numbered_above_and_nowhere_below(rows):
    top, bottom = rows
    image = red(top[:, -320:])
    for x1, y1, x2, y2 in ((40, 60, 120, 200), (180, 80, 280, 220)):
        assert image[[y1, y1, y2 - 1, y2 - 1], [x1, x2 - 1, x1, x2 - 1]].all()
    assert not red(bottom).any()
    above_the_box = (slice(40, 58), slice(40, 60))
    assert (top[:, -320:][above_the_box] == instance_colors(1)[0]).all(axis=-1).any()
    assert (bottom[:, -320:][above_the_box] == GRAY).all()


def test_both_rows_show_their_own_masks_in_the_same_colours(rows):
    for color, (x, y) in zip(instance_colors(2).astype(float), ((80, 130), (230, 150)), strict=True):
        for row in rows:
            mean = row[y - 20 : y + 20, -320:][:, x - 15 : x + 15].reshape(-1, 3).mean(axis=0)
            np.testing.assert_allclose(mean, (GRAY + color) / 2, atol=1)
    top, bottom = rows
    inside_truth_only = (66, 50)  # row, column: within the 5 pixels that the prediction lacks
    assert (top[:, -320:][inside_truth_only] != GRAY).any()
    assert (bottom[:, -320:][inside_truth_only] == GRAY).all()


@pytest.mark.parametrize("scale", [16, 1])
def test_the_smallest_masks_are_seen_in_both_rows(scale):
    one = column(height=120 * scale, width=160 * scale, boxes=((50, 50, 51, 51),), shrink=0)
    _, bottom = two_rows(two_row_overlay([one], row_height=60), row_height=60)
    assert (bottom[:, -80:] != GRAY).any()


def test_columns_stand_side_by_side_whatever_their_titles():
    one = two_row_overlay([column()], row_height=ROW)
    others = [column(boxes=(), title=""), column(title="straße_漢字_🙂\n" * 50)]
    three = two_row_overlay([column(), *others], row_height=ROW)
    assert three.shape[:2] == (one.shape[0], one.shape[1] + 2 * (320 + 3))
    np.testing.assert_array_equal(three[:, : one.shape[1]], one)


def test_png_read_back_is_equal(tmp_path):
    picture = two_row_overlay([column()], row_height=60)
    path = write_image(tmp_path / "new" / "bild_é.png", picture)
    assert [p.name for p in path.parent.glob("*.png")] == [path.name]
    read = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), picture)
