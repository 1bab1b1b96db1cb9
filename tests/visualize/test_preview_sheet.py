import numpy as np
import pytest

from roiseg.visualize.canvas import CLASS_COLORS, HATCH_GRAY, ROI_RED
from roiseg.visualize.preview_sheet import (
    OUTSIDE,
    PreviewSample,
    class_legend,
    color_classes,
    preview_sheet,
    roi_strip,
)

GRAY = 60


@pytest.fixture
def image():
    return np.full((100, 120, 3), GRAY, dtype=np.uint8)


def labels(value, height=8, width=4):
    return np.full((height, width), value, dtype=np.uint8)


def has(picture, color):
    return bool((picture == np.array(color)).all(axis=-1).any())


def sample(image, count, title="000.jpg"):
    boxes = np.array([[5 + 9 * i, 10, 15 + 9 * i, 60] for i in range(count)], dtype=np.float32).reshape(-1, 4)
    image.flags.writeable = boxes.flags.writeable = False  # a write would raise
    return PreviewSample(title, image, boxes, [labels(1)] * count)


def test_classes_have_their_colours(image):
    grid = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    picture = color_classes(image, grid, alpha=0.5)
    quarters = [picture[:50, :60], picture[:50, 60:], picture[50:, :60], picture[50:, 60:]]
    assert (quarters[0] == GRAY).all()
    for quarter, value in zip(quarters[1:3], (1, 2), strict=True):
        expected = np.broadcast_to((GRAY + np.array(CLASS_COLORS[value])) / 2, quarter.shape)
        np.testing.assert_allclose(quarter, expected, atol=0.51)
    hatched = (quarters[3] == np.array(HATCH_GRAY)).all(axis=-1)
    assert 0.4 < hatched.mean() < 0.6
    assert (quarters[3][~hatched] == GRAY).all()
    assert (image == GRAY).all()
    for shape in ((1, 1), (3, 7), (300, 5)):  # the grid is stretched over the whole crop
        assert (color_classes(image, np.ones(shape, np.uint8), alpha=1.0) == np.array(CLASS_COLORS[1])).all()


@pytest.mark.parametrize(("box", "size"), [((10, 10, 50, 30), (160, 80)), ((10, 10, 20, 90), (20, 160))])
def test_the_crop_keeps_the_aspect_of_the_box(image, box, size):
    cell = roi_strip(image, box, labels(1), cell=160, alpha=1.0)
    ys, xs = np.nonzero((cell == np.array(CLASS_COLORS[1])).all(axis=-1))
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == size
    assert cell.shape[1] == 160


def test_the_crop_shows_exactly_the_box_and_light_grey_outside_the_image(image):
    cell = roi_strip(image, (-40, 0, 40, 80), labels(0), cell=160)[:160]
    assert (cell[:, :76] == np.array(OUTSIDE)).all()
    assert (cell[4:, 84:] == GRAY).all()
    image[20:40, 30:70] = 250
    cell = roi_strip(image, (30, 20, 70, 40), labels(0), cell=160)[40:120]
    assert (cell[2:-2, 2:-2] == 250).all()
    half = roi_strip(image, (10, 20, 50, 40), labels(0), cell=160)[40:120]
    assert (half[4:-4, :76] == GRAY).all()
    assert (half[4:-4, 84:] == 250).all()


def test_unusual_boxes_give_a_cell_of_the_usual_size(image):
    usual = roi_strip(image, (0, 0, 50, 50), labels(1)).shape
    empty = [(5, 5, 5, 5), (9, 9, 2, 2), (0, 0, 120, 0.1)]
    for box in (*empty, (500, 500, 600, 600), (-999, -999, 9999, 9999), (np.nan, 0, 5, 5)):
        assert roi_strip(image, box, labels(1)).shape == usual


def test_the_sheet_has_one_row_per_sample_and_a_legend(image):
    one, two, three = (preview_sheet([sample(image, 2)] * count, cell=60) for count in (1, 2, 3))
    assert two.shape[0] - one.shape[0] == three.shape[0] - two.shape[0] > 120
    assert one.shape[1] == two.shape[1]
    row = two.shape[0] - one.shape[0]
    np.testing.assert_array_equal(two[:row], two[row : 2 * row])
    np.testing.assert_array_equal(two[row:], one)
    assert one.dtype == np.uint8
    assert has(one[row:], ROI_RED) and has(one[:row], ROI_RED)  # the legend's ROI box, and the ROI's


def test_the_sheet_shows_at_most_max_rois(image):
    sheets = [preview_sheet([sample(image, count)], max_rois=4, cell=60) for count in (4, 11)]
    assert sheets[0].shape == sheets[1].shape
    crops = [sheet[26:-40, -130:] for sheet in sheets]
    np.testing.assert_array_equal(*crops)
    for max_rois, count in ((1, 0), (1, 5), (2, 1), (3, 5)):  # every number fits
        samples = [sample(image, count), sample(image, 3)]
        assert preview_sheet(samples, max_rois=max_rois, cell=40).shape[1] > 40


def test_the_legend_wraps():
    heights = [class_legend(width).shape[0] for width in (2000, 300, 150, 20)]
    assert heights[0] < heights[1] < heights[2] == heights[3]  # one line, several, one entry each
    for width in (2000, 300, 150, 20):
        assert class_legend(width).shape[1] == width
        assert has(class_legend(width), ROI_RED)
