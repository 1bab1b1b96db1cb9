import numpy as np
import pytest

from roiseg.visualize.canvas import ROI_RED, instance_colors
from roiseg.visualize.drawing import add_caption, blend_masks, draw_boxes, draw_labels

GRAY = (90, 90, 90)


@pytest.fixture
def image():
    image = np.full((60, 80, 3), GRAY, dtype=np.uint8)
    image.flags.writeable = False  # a write would raise
    return image


def is_red(picture):
    return (picture == np.array(ROI_RED)).all(axis=-1)


def is_drawn(picture):
    return (picture != np.array(GRAY)).any(axis=-1)


def test_boxes_cover_exactly_their_border_pixels(image):
    red = is_red(draw_boxes(image, [[10, 20, 30, 40]], thickness=2))
    expected = np.zeros_like(red)
    expected[20:40, 10:30] = True
    expected[22:38, 12:28] = False
    np.testing.assert_array_equal(red, expected)


@pytest.mark.parametrize(("box", "extent"), [
    ([10, 10, 11, 11], (10, 10, 11, 11)),
    ([10.2, 10.2, 10.4, 10.4], (10, 10, 11, 11)),  # less than a pixel
    ([10, 10, 10, 10], (10, 10, 11, 11)),  # nothing
    ([70, 50, 500, 500], (70, 50, 80, 60)),  # partly outside
    ([-9, -9, 3, 3], (0, 0, 3, 3)),
])  # fmt: skip
def test_extent_of_small_and_cut_boxes(image, box, extent):
    ys, xs = np.nonzero(is_red(draw_boxes(image, [box], thickness=1)))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == extent


@pytest.mark.parametrize("box", [[90, 5, 99, 9], [-9, -9, -2, -2], [np.nan, 0, 5, 5], [0, 0, np.inf, 5]])
def test_boxes_outside_or_not_finite_are_left_out(image, box):
    assert not is_drawn(draw_boxes(image, [box])).any()
    assert not is_drawn(draw_labels(image, [box], [1], instance_colors(1))).any()


def test_masks_are_mixed_with_their_colour_and_outlined_in_it(image):
    masks = np.zeros((2, 60, 80), dtype=bool)
    masks[0, :10, :10] = masks[1, 30:40, 30:40] = True
    colors = instance_colors(2)
    picture = blend_masks(image, masks, colors, alpha=0.25)
    for inside, color in zip((picture[1:9, 1:9], picture[31:39, 31:39]), colors, strict=True):
        expected = np.broadcast_to(0.75 * np.array(GRAY) + 0.25 * color, inside.shape)
        np.testing.assert_allclose(inside, expected, atol=0.51)
    assert not is_drawn(picture)[~masks.any(axis=0)].any()
    np.testing.assert_array_equal(picture[30, 30:40], np.repeat(colors[1:], 10, axis=0))


def test_nothing_to_draw_gives_an_equal_copy(image):
    none, colors = np.zeros((0, 4)), instance_colors(0)
    for picture in (
        blend_masks(image, np.zeros((0, 60, 80), dtype=bool), colors),
        blend_masks(image, np.zeros((1, 60, 80), dtype=bool), instance_colors(1)),
        draw_boxes(image, none),
        draw_labels(image, none, [], colors),
    ):
        np.testing.assert_array_equal(picture, image)
        assert picture is not image


def test_a_label_lies_wholly_inside_the_image_and_does_not_hide_a_tiny_box(image):
    colors = instance_colors(1)
    middle = is_drawn(draw_labels(image, [[40, 30, 50, 40]], [12], colors)).sum()
    for box in (
        [0, 0, 1, 1],
        [79, 59, 80, 60],
        [-5, -5, 4, 4],
        [76, 0, 90, 5],
        [0, 58, 2, 70],
        [40, 30, 41, 31],
    ):
        assert is_drawn(draw_labels(image, [box], [12], colors)).sum() == middle
    for x1, y1, x2, y2 in ([40, 30, 42, 32], [40, 1, 42, 3], [0, 0, 2, 2], [77, 1, 79, 3], [1, 57, 3, 59]):
        drawn = is_drawn(draw_labels(image, [[x1, y1, x2, y2]], [3], colors))
        assert drawn.any() and not drawn[y1:y2, x1:x2].any()


def test_a_label_inside_a_large_box_leaves_its_lines_free(image):
    box = [[0, 0, 80, 60]]
    picture = draw_labels(draw_boxes(image, box, thickness=3), box, [1], instance_colors(1), inset=3)
    np.testing.assert_array_equal(is_red(picture), is_red(draw_boxes(image, box, thickness=3)))
    assert (picture[3, 3] == instance_colors(1)[0]).all()


def test_labels_of_equal_boxes_do_not_cover_each_other(image):
    colors = instance_colors(3)
    one = is_drawn(draw_labels(image, [[30, 30, 50, 50]], [1], colors)).sum()
    picture = draw_labels(image, [[30, 30, 50, 50]] * 3, [1, 1, 1], colors)
    assert is_drawn(picture).sum() == 3 * one


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (200, 5)])
def test_images_smaller_than_a_label_do_not_crash(shape):
    picture = np.full((*shape, 3), 50, dtype=np.uint8)
    assert draw_labels(picture, [[0, 0, 1, 1]], [123], instance_colors(1)).shape == picture.shape
    assert add_caption(picture, "text", 20).shape == (shape[0] + 20, shape[1], 3)


def test_caption_above_and_below(image):
    above, below = add_caption(image, "text", 20), add_caption(image, "text", 20, below=True)
    assert above.shape == below.shape == (80, 80, 3)
    np.testing.assert_array_equal(above[20:], image)
    np.testing.assert_array_equal(below[:60], image)
    assert above[:20].min() < 150  # there is ink
    assert add_caption(image, "", 20)[:20].min() > 200
    for text in ("straße 漢字 🙂.jpg", "two\nlines\tand a tab", "\x00"):  # the font lacks some of these
        plain = "".join(c if " " <= c <= "~" else "?" for c in text)
        np.testing.assert_array_equal(add_caption(image, text, 20), add_caption(image, plain, 20))


@pytest.mark.parametrize("n", [0, 1, 10, 11, 200])
def test_a_colour_does_not_depend_on_n_and_the_caller_cannot_spoil_it(n):
    before = instance_colors(n)
    assert (before.shape, before.dtype) == ((n, 3), np.uint8)
    np.testing.assert_array_equal(before, instance_colors(700)[:n])
    instance_colors(n)[:] = 0
    np.testing.assert_array_equal(instance_colors(n), before)


def test_200_colours_are_distinct_and_none_is_near_the_red_of_roi_boxes():
    colors = instance_colors(200).astype(int)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=-1)
    np.fill_diagonal(distance, 999)
    assert distance.min() >= 17
    assert distance[:12, :12].min() >= 60
    difference = np.abs(instance_colors(1000).astype(int) - np.array(ROI_RED)).max(axis=-1)
    assert difference.min() > 40
