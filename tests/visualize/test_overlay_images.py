import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiseg.visualize.canvas import ROI_RED, instance_colors
from roiseg.visualize.drawing import blend_crops, blend_masks
from roiseg.visualize.overlays import OverlayColumn, six_panel, two_row_overlay

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


PANEL = (120, 160)  # height, width
STRIP, LINE = 20, 3


@pytest.fixture
def picture():
    return np.full((60, 80, 3), 90, np.uint8)


def panels(figure, height=120, width=160):
    """Input, boxes, masks, tinted, labelled, all."""
    rows = [row * (height + STRIP + LINE) + STRIP for row in range(2)]
    columns = [column * (width + LINE) for column in range(3)]
    return [figure[y : y + height, x : x + width] for y in rows for x in columns]


def test_panels_go_from_the_picture_to_everything(picture):
    mask = np.zeros((60, 80), bool)
    mask[20:50, 10:40] = True
    figure = six_panel(picture, [[5, 15, 45, 55]], [0.87], [mask], panel=PANEL)
    given, boxes, masks, tinted, labelled, everything = panels(figure)
    color = instance_colors(1)[0]
    red = (np.array(ROI_RED) == boxes).all(-1)
    assert (given == 90).all()
    assert red[30:110, 10].all()  # the left edge of the box, twice as large
    assert not (masks == 90).all(-1).any()  # nothing of the image
    assert (masks[60, 50].astype(int) @ [1, 1, 1]) > (masks[10, 150].astype(int) @ [1, 1, 1])
    assert tinted[60, 50].tolist() == np.rint(45 + color * 0.5).tolist()
    assert (tinted[:20] == 90).all()
    assert (labelled != tinted).any()
    assert not (labelled == ROI_RED).all(-1).any()
    assert (everything == ROI_RED).all(-1)[100:, 12:].any()


@pytest.mark.parametrize("size", [(60, 80), (300, 20), (20, 900), (1, 1)])
def test_any_picture_fits_and_nobody_is_fine(size):
    figure = six_panel(np.full((*size, 3), 7, np.uint8), np.zeros((0, 4)), [], [], panel=PANEL)
    assert figure.dtype == np.uint8
    assert figure.shape[0] <= 2 * (PANEL[0] + STRIP) + LINE
    assert figure.shape[1] <= 3 * PANEL[1] + 2 * LINE


@given(st.integers(0, 2**32 - 1))
def test_masks_in_windows_are_drawn_as_whole_ones_are(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    masks, crops, windows = np.zeros((4, 40, 50), bool), [], []
    for mask in masks:
        (x1, x2), (y1, y2) = np.sort(rng.integers(0, 51, 2)), np.sort(rng.integers(0, 41, 2))
        crop = rng.random((y2 - y1, x2 - x1)) < 0.7
        mask[y1:y2, x1:x2] = crop
        crops.append(crop)
        windows.append((int(x1), int(y1), int(x2), int(y2)))
    whole = blend_masks(image, masks, instance_colors(4))
    assert np.array_equal(blend_crops(image, crops, windows, instance_colors(4)), whole)
