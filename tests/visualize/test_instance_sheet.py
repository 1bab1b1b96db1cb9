import numpy as np
import pytest

from roiseg.evaluation.ranking import SheetCell, crop_window, instance_sheet
from roiseg.visualize.canvas import COLORS, ROI_RED

CELL = 200
LEFT, TOP = 6, 28 + 20  # of the first image: a gap; the title and a line of text


def cell(height=50, width=100, others=0, **given):
    """Truth: the left half of the box; prediction: the right half; others along the lower edge."""
    truth, prediction = np.zeros((2, height, width), bool)
    truth[10:40, 20:50] = True
    prediction[10:40, 50:80] = True
    parts = np.zeros((others, height, width), bool)
    parts[:, 44:] = True
    image = np.full((height, width, 3), 100, np.uint8)
    for array in (image, truth, prediction, parts):
        array.flags.writeable = False  # a write would raise
    fields = {
        "title": "a.jpg #7", "footer": "IoU 0.00", "image": image, "box": np.array([20.0, 10, 80, 40]),
        "truth": truth, "prediction": prediction, "others": parts,
    }  # fmt: skip
    return SheetCell(**{**fields, **given})


def where(picture, color):
    return (picture == np.array(color)).all(axis=-1)


def shown(**given):
    """The first cell's image: 100 x 50 at twice the size, in the middle of its square."""
    sheet = instance_sheet("worst", [cell(**given)], columns=2, side=CELL)
    return sheet[TOP + 50 : TOP + 150, LEFT : LEFT + CELL].astype(int)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2)])
def test_cells_stand_in_rows_under_the_title_and_above_the_legend(count, rows):
    sheet = instance_sheet("worst", [cell()] * count, columns=3, side=CELL)
    assert sheet.shape == (28 + rows * (CELL + 2 * 20 + 6) + 30, 3 * (CELL + 6) + 6, 3)
    legend = sheet[-30:]
    told = {name for name, color in {**COLORS, "ROI": ROI_RED}.items() if where(legend, color).any()}
    assert told == {"annotated", "predicted", "non-target", "ROI"}


def test_the_annotation_is_an_outline_the_prediction_a_tint_the_roi_a_red_box_and_others_are_outlined():
    picture = shown()
    green = where(picture, COLORS["annotated"])
    assert green[20:80, 40].all() and green[20, 40:98].all()
    assert (picture[45:55, 60:80] == 100).all()  # inside the annotation the image is as it was
    assert (picture[50, 120] == np.rint(0.55 * 100 + 0.45 * np.array(COLORS["predicted"]))).all()
    red = where(picture, ROI_RED)
    assert red[20, 110:158].all() and red[79, 110:158].all()
    assert not where(picture, COLORS["non-target"]).any()
    orange = where(shown(others=2), COLORS["non-target"])
    assert orange[88, 5:195].any()
    assert not orange[:86].any()


def test_tiny_and_extreme_pictures_fit_their_cell():
    for height, width in ((1, 1), (1, 400), (900, 2)):
        mask, image = np.ones((height, width), bool), np.zeros((height, width, 3), np.uint8)
        one = SheetCell("t", "n", image, np.array([0, 0, width, height]), mask, mask, mask[None][:0])
        assert instance_sheet("t", [one], columns=1, side=CELL).shape[1] == CELL + 12


@pytest.mark.parametrize(("box", "window"), [
    ((40, 20, 60, 60), (37, 14, 63, 66)), ((40.5, 20, 60.5, 60), (37, 14, 64, 66)),
    ((0, 0, 20, 40), (0, 0, 23, 46)), ((-5, 70, 110, 90), (0, 67, 100, 80)),
])  # fmt: skip
def test_surroundings_grow_the_sides_by_three_tenths_and_stay_in_the_image(box, window):
    assert crop_window(box, (80, 100)) == window
