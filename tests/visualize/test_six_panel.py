"""The six-panel figure: what each panel shows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiseg.visualize.canvas import ROI_RED, instance_colors
from roiseg.visualize.drawing import blend_crops, blend_masks
from roiseg.visualize.overlays import six_panel

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
