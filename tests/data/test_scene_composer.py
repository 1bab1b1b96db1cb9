"""Bookkeeping of pasted people, against whole masks painted one over another."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import ellipse, hole_rle, person, rectangle, segmentation_mask, write_coco
from hypothesis import given
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.copy_paste import CopyPaste, Paste
from roiseg.data.images import read_image
from roiseg.data.scene_composer import SceneComposer
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry import rle
from roiseg.geometry.transform import Transform

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
    x = (x2 - x if paste.mirrored else x1 + x)[None, :]
    y = (y1 + (np.arange(height) + 0.5) * (y2 - y1) / height)[:, None]
    parts = cutout["segmentation"]
    if isinstance(parts, dict):
        return segmentation_mask(parts, 96, 120)[np.floor(y).astype(int), np.floor(x).astype(int)] > 0
    inside = np.zeros((height, width), bool)
    for part in parts if isinstance(parts[0], list) else [parts]:
        corners = np.reshape(part, (-1, 2))
        odd = np.zeros((height, width), bool)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if ay != by:
                odd ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
        inside |= odd
    return inside


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


def bounds(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


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
        box = bounds(masks[n])
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


@given(pastes=st.lists(placements(), min_size=1, max_size=3))
def test_targets_are_those_of_the_label_map(scenes, pastes):
    """Every pixel of the image, of every owner: 1 its own, 2 another's, 255 the crowd's alone."""
    masks, _, _ = painted(pastes)
    scene = scenes.compose(scenes.plain(0), pastes)
    spec = TargetSpec("roi", (HEIGHT, WIDTH), 3, (HEIGHT, WIDTH))
    target_index = scene.eligible
    rois = np.tile(np.array([[0, 0, WIDTH, HEIGHT]], np.float32), (len(target_index), 1))
    drawn = rasterize_targets(spec, scene.outlines, scene.crowd, Transform(1, 1, 0, 0), rois, target_index)
    left = [mask for mask in masks if mask.any()]
    for owner, labels in zip(target_index, drawn, strict=True):
        want = np.zeros((HEIGHT, WIDTH), int)
        want[left[int(np.flatnonzero(scene.crowd)[0])] if scene.crowd.any() else want > 0] = 255
        for n, mask in enumerate(left):
            if not scene.crowd[n]:
                want[mask] = 2
        want[left[owner]] = 1
        np.testing.assert_array_equal(labels, want)


@given(paste=placements())
def test_a_pasted_person_shows_its_own_pixels(scenes, files, paste):
    """Inside the edge, exactly those of its image, resized (and mirrored) by OpenCV."""
    paste = replace(paste, tone=0.0)
    scene = scenes.compose(scenes.plain(0), [paste])
    after = scenes.render(read_image(files.images / "base.png"), scene)
    cutouts = read_image(files.images / "cutouts.png")
    if paste.mirrored:
        cutouts = cutouts[:, ::-1]
        x1, x2 = 120 - paste.window[2], 120 - paste.window[0]
    else:
        x1, x2 = paste.window[0], paste.window[2]
    height, width = paste.size
    window = np.ascontiguousarray(cutouts[paste.window[1] : paste.window[3], x1:x2])
    way = cv2.INTER_AREA if height < window.shape[0] else cv2.INTER_LINEAR
    stretched = cv2.resize(window, (width, height), interpolation=way)
    inner = cv2.erode(painted([paste])[2][0].astype(np.uint8), np.ones((3, 3)), borderValue=0)
    for y, x in zip(*inner.nonzero(), strict=True):
        want = stretched[y - paste.place[1], x - paste.place[0]].astype(int)
        assert np.abs(after[y, x] - want).max() <= 1


# --- polygons -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two people annotated by polygons, boxes with fractions of pixels."""
    instances = [
        {"file": "a.png", "segmentation": rectangle(10.3, 12.4, 40.6, 70.2)},
        {"file": "a.png", "segmentation": ellipse(75.2, 40.3, 20.1, 28.4)},
        {"file": "b.png", "segmentation": rectangle(5.2, 5.3, 45.1, 55.4)},
    ]
    files = write_coco(tmp_path_factory.mktemp("drawn"), {"a.png": (90, 110), "b.png": (60, 50)}, instances)
    return SceneComposer(load_annotations(files.json), files.images, 16, CopyPaste(min_size=16)), instances


def test_who_is_not_touched_keeps_outline_and_box(drawn):
    scenes, _ = drawn
    plain = scenes.plain(0)
    scene = scenes.compose(plain, [Paste(2, (5, 5, 46, 56), (0, 40, 30, 80), False, False, 0.0)])
    assert len(scene.boxes) == 3
    np.testing.assert_array_equal(scene.outlines.pixels(1), plain.outlines.pixels(1))
    np.testing.assert_array_equal(scene.boxes[1], plain.boxes[1])
    assert not scene.outlines.pixels(0) and not scene.outlines.pixels(2)


def test_sides_of_a_box_move_only_where_the_mask_was_cut(drawn):
    scenes, instances = drawn
    before = segmentation_mask([instances[0]["segmentation"]], 90, 110) > 0
    scene = scenes.compose(scenes.plain(0), [Paste(2, (5, 5, 46, 56), (0, 60, 60, 90), False, False, 0.0)])
    own = rle.decode(scene.outlines.rle(0))
    assert (own & ~before).sum() == 0 and 0 < own.sum() < before.sum()
    np.testing.assert_allclose(scene.boxes[0, :3], [10.3, 12.4, 40.6], atol=1e-4)
    assert scene.boxes[0, 3] == bounds(own)[3] < 65


# --- rules ----------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path):
    """A person of 40 x 60 pixels, and a solid cutout of 50 x 60."""
    instances = [
        {"file": "a.png", "segmentation": hole_rle(100, 100, (20, 20, 60, 80), (0, 0, 0, 0))},
        {"file": "b.png", "segmentation": hole_rle(60, 50, (0, 0, 50, 60), (0, 0, 0, 0))},
    ]
    files = write_coco(tmp_path, {"a.png": (100, 100), "b.png": (60, 50)}, instances)
    return load_annotations(files.json), files.images


def pasted(alone, *places, behind=False):
    pastes = [Paste(1, (0, 0, 50, 60), place, False, behind, 0.0) for place in places]
    scenes = SceneComposer(*alone, 16, CopyPaste(min_size=16))
    scenes.paste = SimpleNamespace(min_size=16, min_visible=0.25, sample=lambda *args: pastes)
    return scenes.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("place", "ids", "eligible", "cells"),
    [
        ((10, 10, 60, 66), [1, 2], [1], 14 * 40),  # leaves 14 of 60 rows: hardly visible
        ((10, 10, 60, 60), [1, 2], [0, 1], 20 * 40),
        ((36, 10, 99, 90), [1, 2], [0, 1], 16 * 60),
        ((35, 10, 99, 90), [1, 2], [1], 15 * 60),  # leaves 15 columns: too narrow
        ((10, 10, 90, 90), [2], [0], 80 * 80),  # covers it
    ],
)
def test_who_is_hardly_visible_is_no_roi_but_in_the_way_of_others(alone, place, ids, eligible, cells):
    scene = pasted(alone, place)
    assert scene.ids.tolist() == ids
    assert scene.eligible.tolist() == eligible
    assert rle.decode(scene.outlines.rle(0)).sum() == cells
    assert len(scene.outlines) == len(ids)


def test_who_stands_behind_changes_nobody(alone):
    scene = pasted(alone, (10, 10, 90, 90), behind=True)
    assert scene.ids.tolist() == [1, 2]
    assert rle.decode(scene.outlines.rle(0)).sum() == 40 * 60
    assert rle.decode(scene.outlines.rle(1)).sum() == 80 * 80 - 40 * 60
    assert scene.eligible.tolist() == [0, 1]
    assert len(pasted(alone, (25, 25, 50, 70), behind=True).pasted) == 0  # nothing of it is to be seen


def test_an_image_in_which_nobody_could_be_a_roi_stays_as_it_is(alone):
    """One layer covers the person, the others all of that one."""
    places = [(0, 0, 100, 100)] + [(x, 0, x + 10, 100) for x in range(0, 100, 10)]
    scene = pasted(alone, *places)
    assert scene.pasted == ()
    assert scene.ids.tolist() == [1]


def test_nobody_large_enough_to_be_pasted_is_a_mistake(alone):
    with pytest.raises(UserError, match=r"120 pixels.*data\.augment\.paste\.min_size"):
        SceneComposer(*alone, 16, CopyPaste(min_size=120))


@pytest.mark.realdata
def test_real_people_in_real_images(realdata):
    folder = realdata / "coco128_person"
    annotations = load_annotations(folder / "annotations/instances_val2017_person_only_no_crowd.json")
    scenes = SceneComposer(annotations, folder / "images/val2017", 16, CopyPaste(probability=1.0))
    seen = 0
    for image in np.flatnonzero(annotations.eligible_counts(16)).tolist():
        plain, scene = scenes.plain(image), scenes.sample(image, np.random.default_rng(image))
        masks = [rle.decode(plain.outlines.rle(n)) for n in range(len(plain.boxes))]
        touched = np.zeros(annotations.size(image), bool)
        for paste, (x1, y1, x2, y2), mask in scene.pasted:
            assert annotations.image_of(paste.instance) != image
            canvas = np.zeros_like(touched)
            canvas[y1:y2, x1:x2] = mask
            masks = masks if paste.behind else [m & ~canvas for m in masks]
            assert not any((canvas & m).any() for m in masks)
            masks.append(canvas)
            touched |= canvas
            seen += 1
        left = [mask for mask in masks if mask.any()]
        assert len(left) == len(scene.boxes)
        for position, mask in enumerate(left):
            np.testing.assert_array_equal(rle.decode(scene.outlines.rle(position)), mask)
            if position >= len(left) - len(scene.pasted):  # or some of the annotated, which may be loose
                np.testing.assert_array_equal(scene.boxes[position], bounds(mask))
        assert len(scene.eligible)
        picture = read_image(scenes.cutouts.image_dir / str(annotations.file_names[image]))
        after = scenes.render(picture, scene)
        np.testing.assert_array_equal(after[~touched], picture[~touched])
        assert not scene.pasted or (after != picture).any()
    assert seen > 10
