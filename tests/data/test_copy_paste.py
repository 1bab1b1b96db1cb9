"""Who is pasted where, and how it is blended in."""

import numpy as np
import pytest
from helpers import hole_rle, person, rectangle, write_coco
from hypothesis import given
from hypothesis import strategies as st

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.copy_paste import CopyPaste, CutoutPool, blend
from roiseg.data.folds import select_images


@pytest.fixture(scope="module")
def crowd_of_cutouts(tmp_path_factory):
    """Image 0 is pasted into; cutouts of 30 to 120 pixels in three others, and some who are none."""
    instances = [
        {"file": "a.png", "segmentation": person(100, 40, 100)},  # 1: of the image itself
        {"file": "b.png", "segmentation": person(30, 10, 60)},  # 2
        {"file": "b.png", "segmentation": person(80, 10, 120)},  # 3
        {"file": "c.png", "segmentation": person(40, 20, 90)},  # 4: half covered by the next one
        {"file": "c.png", "segmentation": rectangle(10, 20, 80, 62)},  # 5: covered by the one before
        {"file": "c.png", "segmentation": hole_rle(150, 150, (90, 20, 140, 120), (0, 0, 0, 0)), "iscrowd": 1},  # 6
        {"file": "c.png", "segmentation": [rectangle(100, 130, 104, 148), rectangle(20, 130, 24, 148)]},  # 7: thin
        {"file": "d.png", "segmentation": person(40, 10, 10)},  # 8: small
        {"file": "d.png", "segmentation": rectangle(40, 30, 120, 60)},  # 9
    ]  # fmt: skip
    sizes = dict.fromkeys(("b.png", "c.png", "d.png"), (150, 150))
    files = write_coco(tmp_path_factory.mktemp("cutouts"), {"a.png": (200, 200), **sizes}, instances)
    return CutoutPool(load_annotations(files.json), files.images, 16)


@pytest.mark.parametrize(
    ("image", "height", "donors"), [(0, 0.0, {2, 3, 9}), (1, 0.0, {1, 9}), (0, 100.0, {3}), (0, 9999.0, {3})]
)
def test_donors_are_large_uncovered_persons_of_other_images(crowd_of_cutouts, image, height, donors):
    rng = np.random.default_rng(0)
    drawn = {crowd_of_cutouts.sample(image, height, rng) for _ in range(300)} - {None}
    assert {int(crowd_of_cutouts.annotations.ids[n]) for n in drawn} == donors


def test_nobody_else_is_nobody(crowd_of_cutouts):
    alone = select_images(crowd_of_cutouts.annotations, np.array([1]))
    cutouts = CutoutPool(alone, crowd_of_cutouts.image_dir, 16)
    assert cutouts.sample(0, 0.0, np.random.default_rng(0)) is None
    assert CopyPaste(1.0).sample(BOXES, SIZE, 0, cutouts, np.random.default_rng(0)) == []


def test_the_name_of_donors_is_theirs_alone(crowd_of_cutouts):
    annotations, folder = crowd_of_cutouts.annotations, crowd_of_cutouts.image_dir
    parts = [select_images(annotations, np.array(images)) for images in ([3, 2, 1, 0], [0, 1, 2], [0, 1])]
    turned, fewer, fewest = (CutoutPool(part, folder, 16).name for part in parts)
    assert turned == crowd_of_cutouts.name
    assert len({turned, fewer, fewest}) == 3


SIZE = (200, 200)
BOXES = np.array([[60, 40, 140, 180], [20, 90, 50, 170]], np.float32)


@given(
    seed=st.integers(0, 10**6), near=st.sampled_from([0.0, 1.0]), high=st.floats(1, 3), max_zoom=st.floats(0.5, 2)
)  # fmt: skip
def test_pastes_keep_within_their_settings(crowd_of_cutouts, seed, near, high, max_zoom):
    paste = CopyPaste(1.0, people=4, near=near, scale=(0.5, high), max_zoom=max_zoom, tone=0.3)
    drawn = paste.sample(BOXES, SIZE, 0, crowd_of_cutouts, np.random.default_rng(seed))
    assert drawn == paste.sample(BOXES, SIZE, 0, crowd_of_cutouts, np.random.default_rng(seed))
    assert len(drawn) <= 4
    for one in drawn:
        assert one.window == crowd_of_cutouts.window(one.instance)
        x1, y1, x2, y2 = one.place
        width, height = one.window[2] - one.window[0], one.window[3] - one.window[1]
        assert 0 <= one.tone <= 0.3
        assert abs((x2 - x1) / width - (y2 - y1) / height) <= 1 / min(width, height)  # but for whole pixels
        assert y2 - y1 <= max_zoom * height + 0.5
        assert -1 <= (x1 + x2) / 2 <= SIZE[1] + 1
        fits = []
        for bx1, by1, bx2, by2 in BOXES.tolist():
            level = abs(y2 - by2) <= 0.1 * (y2 - y1) + 1
            overlaps = min(x2, bx2) > max(x1, bx1)
            fits.append(y2 - y1 <= high * (by2 - by1) + 0.5 and level and (overlaps or not near))
        assert any(fits)


def test_settings_are_shares_of_what_is_drawn(crowd_of_cutouts):
    rng = np.random.default_rng(0)
    paste = CopyPaste(0.6, people=3, behind=0.2, flip=0.7)
    drawn = [paste.sample(BOXES, SIZE, 0, crowd_of_cutouts, rng) for _ in range(1500)]
    assert np.mean([len(d) > 0 for d in drawn]) == pytest.approx(0.6, abs=0.05)
    numbers = np.bincount([len(d) for d in drawn if d], minlength=4)[1:] / sum(map(bool, drawn))
    np.testing.assert_allclose(numbers, 1 / 3, atol=0.05)
    assert np.mean([p.behind for d in drawn for p in d]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([p.mirrored for d in drawn for p in d]) == pytest.approx(0.7, abs=0.04)
    assert CopyPaste(1.0).sample(BOXES[:0], SIZE, 0, crowd_of_cutouts, rng) == []


def pictures():
    rng = np.random.default_rng(3)
    under, patch = rng.integers(150, 200, (40, 30, 3)), rng.integers(20, 120, (40, 30, 3))
    mask = np.zeros((40, 30), bool)
    mask[5:35, 8:22] = True
    return under.astype(np.uint8), patch.astype(np.uint8), mask


def test_only_the_edge_shows_what_is_below():
    under, patch, mask = pictures()
    result = blend(under, patch, mask, 0.0)
    np.testing.assert_array_equal(result[~mask], under[~mask])
    np.testing.assert_array_equal(result[6:34, 9:21], patch[6:34, 9:21])
    edge = result[5, 9:21].astype(float)  # 3/4 of it is inside
    np.testing.assert_allclose(edge, 0.75 * patch[5, 9:21] + 0.25 * under[5, 9:21], atol=0.51)


@pytest.mark.parametrize("tone", [0.25, 1.0])
def test_tone_moves_mean_and_spread_that_share_of_the_way(tone):
    under, patch, mask = pictures()
    inner = np.zeros_like(mask)
    inner[6:34, 9:21] = True
    result, person, around = blend(under, patch, mask, tone)[inner].astype(float), patch[mask], under[~mask]
    mean = person.mean(axis=0) + tone * (around.mean(axis=0) - person.mean(axis=0))
    np.testing.assert_allclose(result.mean(axis=0), mean, atol=3)
    spread = person.std(axis=0) * (1 + tone * ((around.std(axis=0) + 1) / (person.std(axis=0) + 1) - 1))
    np.testing.assert_allclose(result.std(axis=0), spread, atol=2)


@pytest.mark.parametrize("fill", [True, False])
def test_a_window_full_of_a_person_or_without_one(fill):
    under, patch, mask = pictures()
    mask[:] = fill
    np.testing.assert_array_equal(blend(under, patch, mask, 1.0), patch if fill else under)
