import numpy as np
import pytest

from roiseg.visualize.palette import ROI_RED, instance_colors


def test_shape_and_type():
    assert instance_colors(0).shape == (0, 3)
    assert instance_colors(7).shape == (7, 3)
    assert instance_colors(7).dtype == np.uint8


@pytest.mark.parametrize("n", [1, 3, 10, 11, 50, 200])
def test_a_colour_does_not_depend_on_n(n):
    np.testing.assert_array_equal(instance_colors(n), instance_colors(700)[:n])


def test_200_colours_are_distinct():
    colors = instance_colors(200).astype(int)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=-1)
    np.fill_diagonal(distance, 999)
    assert distance.min() >= 17
    first = distance[:12, :12]
    assert first.min() >= 60


def test_no_colour_is_near_the_red_of_roi_boxes():
    difference = np.abs(instance_colors(1000).astype(int) - np.array(ROI_RED)).max(axis=-1)
    assert difference.min() > 40


def test_the_caller_cannot_spoil_the_palette():
    before = instance_colors(3)
    instance_colors(3)[:] = 0
    np.testing.assert_array_equal(instance_colors(3), before)
