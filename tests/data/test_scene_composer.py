"""Bookkeeping of pasted people, against whole masks painted one over another."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import (
    ellipse,
    hole_rle,
    inside_polygon,
    mask_bounds,
    person,
    rectangle,
    segmentation_mask,
    write_coco,
)
from hypothesis import given
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.copy_paste import CopyPaste, Paste
from roiseg.data.images import read_image
from roiseg.data.scene_composer import SceneComposer
from roiseg.geometry import rle

HEIGHT, WIDTH = 80, 100


def off(polygon):
    """Away from the centres of cells: on which side of an outline those are is nobody's to say."""
    return [v + 0.00137 for v in polygon]


DONORS = [
    {"file": "cutouts.png", "segmentation": off(person(25.13, 6.37, 77.41))},
    {"file": "cutouts.png", "segmentation": hole_rle(96, 120, (60, 10, 110, 90), (75, 30, 90, 50))},
    {"file": "cutouts.png", "segmentation": [off(rectangle(2.27, 3.19, 9.71, 21.33)), off(rectangle(4.07, 61.13, 12.57, 90.71))]},
]  # fmt: skip
BASE = [
    {"file": "base.png", "segmentation": hole_rle(80, 100, (10, 10, 45, 75), (20, 30, 30, 40))},
    {"file": "base.png", "segmentation": hole_rle(80, 100, (40, 20, 70, 78), (41, 21, 42, 22))},  # overlaps it
    {"file": "base.png", "segmentation": hole_rle(80, 100, (60, 5, 98, 50), (70, 5, 80, 30)), "iscrowd": 1},
    {"file": "base.png", "segmentation": hole_rle(80, 100, (80, 60, 84, 70), (80, 60, 81, 61))},  # small
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    sizes = {"base.png": (HEIGHT, WIDTH), "cutouts.png": (96, 120)}
    return write_coco(tmp_path_factory.mktemp("scenes"), sizes, BASE + DONORS)


@pytest.fixture(scope="module")
def scenes(files):
    return SceneComposer(load_annotations(files.json), files.images, 16, CopyPaste(min_size=16))


def donor_mask(cutout, paste):
    """Mask [h, w] over `paste.place`: is a cell's centre, brought back to the cutout's image, inside?"""
    x1, y1, x2, y2 = paste.window
    height, width = paste.size
    x = (np.arange(width) + 0.5) * (x2 - x1) / width
    x = x2 - x if paste.mirrored else x1 + x
    y = y1 + (np.arange(height) + 0.5) * (y2 - y1) / height
    parts = cutout["segmentation"]
    if isinstance(parts, dict):
        return segmentation_mask(parts, 96, 120)[np.ix_(y.astype(int), x.astype(int))] > 0
    parts = parts if isinstance(parts[0], list) else [parts]
    return np.any([inside_polygon(part, x, y) for part in parts], axis=0)


def painted(pastes):
    """Whole masks of everybody, areas before anybody was pasted, and the pixels each paste takes in turn."""
    masks = [segmentation_mask(b["segmentation"], HEIGHT, WIDTH) > 0 for b in BASE]
    areas, taken = [m.sum() for m in masks], []
    for paste in pastes:
        whole = donor_mask(DONORS[paste.instance - len(BASE)], paste)
        canvas = np.zeros((HEIGHT, WIDTH), bool)
        for row, column in zip(*whole.nonzero(), strict=True):
            y, x = row + paste.place[1], column + paste.place[0]
            if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                canvas[y, x] = True
        for mask in masks:
            if paste.behind:
                canvas &= ~mask
            else:
                mask &= ~canvas
        masks.append(canvas)
        areas.append(whole.sum())
        taken.append(canvas.copy())
    return masks, areas, taken


@st.composite
def placements(draw):
    """Anywhere: within the image, across its edges, or outside."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    left, top = draw(st.integers(-100, 110)), draw(st.integers(-100, 90))
    number = draw(st.integers(0, len(DONORS) - 1))
    return Paste(
        number + len(BASE), WINDOWS[number], (left, top, left + width, top + height),
        draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([0.0, 0.4])),
    )  # fmt: skip


WINDOWS = [(5, 6, 45, 84), (60, 10, 110, 90), (2, 3, 13, 91)]


@given(pastes=st.lists(placements(), min_size=1, max_size=3))
def test_masks_boxes_rois_and_touched_pixels_are_those_of_painting_whole_masks(scenes, files, pastes):
    masks, areas, taken = painted(pastes)
    scene = scenes.compose(scenes.plain(0), pastes)
    left = [n for n, mask in enumerate(masks) if mask.any()]
    assert len(scene.boxes) == len(scene.outlines) == len(scene.crowd) == len(scene.ids) == len(left)
    assert [scenes.cutouts.window(len(BASE) + n) for n in range(3)] == WINDOWS
    eligible = []
    for position, n in enumerate(left):
        np.testing.assert_array_equal(rle.decode(scene.outlines.rle(position)), masks[n])
        box = mask_bounds(masks[n])
        np.testing.assert_allclose(scene.boxes[position], box, atol=1e-4)  # kept as float32 of 0..1
        assert scene.crowd[position] == (n == 2)
        wide = min(box[2] - box[0], box[3] - box[1]) >= 16
        if n != 2 and wide and masks[n].sum() >= 0.25 * areas[n]:
            eligible.append(position)
    assert scene.eligible.tolist() == eligible
    ids = [n + 1 for n in range(len(BASE))] + [paste.instance + 1 for paste in pastes]
    assert scene.ids.tolist() == [ids[n] for n in left]
    taken = [mask for mask in taken if mask.any()]
    for layer, mask in zip(scene.pasted, taken, strict=True):
        x1, y1, x2, y2 = layer.window
        np.testing.assert_array_equal(layer.mask, mask[y1:y2, x1:x2])
        assert layer.mask.sum() == mask.sum()
    picture = read_image(files.images / "base.png")
    before = picture.copy()
    after = scenes.render(picture, scene)
    np.testing.assert_array_equal(picture, before)
    touched = np.any(taken, axis=0) if taken else np.zeros(before.shape[:2], bool)
    np.testing.assert_array_equal(after[~touched], before[~touched])


@given(paste=placements())
def test_a_pasted_person_shows_its_own_pixels(scenes, files, paste):
    """Inside the edge, exactly those of its image, resized (and mirrored) by OpenCV."""
    paste = replace(paste, tone=0.0)
    scene = scenes.compose(scenes.plain(0), [paste])
    after = scenes.render(read_image(files.images / "base.png"), scene)
    cutouts = read_image(files.images / "cutouts.png")
    x1, x2 = paste.window[0], paste.window[2]
    if paste.mirrored:
        cutouts, x1, x2 = cutouts[:, ::-1], 120 - x2, 120 - x1
    height, width = paste.size
    window = np.ascontiguousarray(cutouts[paste.window[1] : paste.window[3], x1:x2])
    way = cv2.INTER_AREA if height < window.shape[0] else cv2.INTER_LINEAR
    stretched = cv2.resize(window, (width, height), interpolation=way)
    inner = cv2.erode(painted([paste])[2][0].astype(np.uint8), np.ones((3, 3)), borderValue=0)
    for y, x in zip(*inner.nonzero(), strict=True):
        want = stretched[y - paste.place[1], x - paste.place[0]].astype(int)
        assert np.abs(after[y, x] - want).max() <= 1


def test_a_polygons_box_moves_only_where_it_was_cut(tmp_path):
    instances = [
        {"file": "a.png", "segmentation": rectangle(10.3, 12.4, 40.6, 70.2)},
        {"file": "a.png", "segmentation": ellipse(85.2, 40.3, 20.1, 28.4)},
        {"file": "b.png", "segmentation": rectangle(5.2, 5.3, 45.1, 55.4)},
    ]
    files = write_coco(tmp_path, {"a.png": (90, 110), "b.png": (60, 50)}, instances)
    scenes = SceneComposer(load_annotations(files.json), files.images, 16, CopyPaste(min_size=16))
    plain = scenes.plain(0)
    scene = scenes.compose(plain, [Paste(2, (5, 5, 46, 56), (0, 60, 60, 90), False, False, 0.0)])
    assert len(scene.boxes) == 3
    np.testing.assert_array_equal(scene.outlines.pixels(1), plain.outlines.pixels(1))
    np.testing.assert_array_equal(scene.boxes[1], plain.boxes[1])
    assert not scene.outlines.pixels(0) and not scene.outlines.pixels(2)
    before = segmentation_mask([instances[0]["segmentation"]], 90, 110) > 0
    own = rle.decode(scene.outlines.rle(0))
    assert (own & ~before).sum() == 0 and 0 < own.sum() < before.sum()
    np.testing.assert_allclose(scene.boxes[0, :3], [10.3, 12.4, 40.6], atol=1e-4)
    assert scene.boxes[0, 3] == mask_bounds(own)[3] < 65


@pytest.fixture
def alone(tmp_path):
    """A person of 40 x 60 pixels, and a solid cutout of 50 x 60."""
    instances = [
        {"file": "a.png", "segmentation": hole_rle(100, 100, (20, 20, 60, 80), (0, 0, 0, 0))},
        {"file": "b.png", "segmentation": hole_rle(60, 50, (0, 0, 50, 60), (0, 0, 0, 0))},
    ]
    files = write_coco(tmp_path, {"a.png": (100, 100), "b.png": (60, 50)}, instances)
    return load_annotations(files.json), files.images


def pasted(alone, *places):
    pastes = [Paste(1, (0, 0, 50, 60), place, False, False, 0.0) for place in places]
    scenes = SceneComposer(*alone, 16, CopyPaste(min_size=16))
    scenes.paste = SimpleNamespace(min_size=16, min_visible=0.25, sample=lambda *args: pastes)
    return scenes.sample(0, np.random.default_rng(0))


def test_an_image_in_which_nobody_could_be_a_roi_stays_as_it_is(alone):
    """One layer covers the person, the others all of that one."""
    places = [(0, 0, 100, 100)] + [(x, 0, x + 10, 100) for x in range(0, 100, 10)]
    scene = pasted(alone, *places)
    assert scene.pasted == ()
    assert scene.ids.tolist() == [1]


def test_nobody_large_enough_to_be_pasted_is_a_mistake(alone):
    with pytest.raises(UserError, match=r"120 pixels.*data\.augment\.paste\.min_size"):
        SceneComposer(*alone, 16, CopyPaste(min_size=120))
