import numpy as np
import pytest

from roiseg.visualize.palette import ROI_RED, instance_colors


@pytest.mark.parametrize("n", [0, 1, 10, 11, 200])
def test_a_colour_does_not_depend_on_n_and_the_caller_cannot_spoil_it(n):
    before = instance_colors(n)
    assert (before.shape, before.dtype) == ((n, 3), np.uint8)
    np.testing.assert_array_equal(before, instance_colors(700)[:n])
    instance_colors(n)[:] = 0
    np.testing.assert_array_equal(instance_colors(n), before)


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
