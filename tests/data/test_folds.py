"""Sets that are joined, selected from, and split into folds: nothing but the images changes."""

import hashlib
import itertools

import numpy as np
import pytest
from helpers import halves

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.folds import Folds, join_annotations, limited, select_images


def content(annotations):
    """Everything known of each image, by its id."""
    found = {}
    for index, image_id in enumerate(annotations.image_ids.tolist()):
        outlines = annotations.outlines(index)
        own = annotations.instances(index)
        found[image_id] = (
            annotations.size(index), annotations.ids[own].tolist(), annotations.crowd[own].tolist(),
            annotations.pixel_boxes(index).tolist(), [outlines.rle(k) for k in range(len(outlines))],
        )  # fmt: skip
    return found


@pytest.mark.parametrize("order", [[3], [4, 2, 0], [5, 4, 3, 2, 1, 0], []])
def test_a_part_holds_what_the_set_says_of_its_images(coco_set, order):
    whole = load_annotations(coco_set.json)
    part = select_images(whole, np.array(order, np.int64))
    assert part.image_ids.tolist() == whole.image_ids[order].tolist()
    assert content(part) == {i: content(whole)[i] for i in part.image_ids.tolist()}
    assert len(part.first) == len(part) + 1
    assert len(part.part_ends) == part.parts[-1]


def test_a_joined_set_holds_all_images_of_its_sets(coco_set, tmp_path):
    one, two = (load_annotations(path) for path in halves(coco_set, tmp_path))
    joined, folder = join_annotations([(one, tmp_path / "images/train"), (two, tmp_path / "images/val")])
    assert folder == tmp_path / "images"
    assert content(joined) == content(one) | content(two)
    names = [f"train/{name}" for name in one.file_names] + [f"val/{name}" for name in two.file_names]
    assert joined.file_names.tolist() == names
    joined, folder = join_annotations([(one, tmp_path), (two, tmp_path)])  # both in one folder
    assert folder == tmp_path
    assert joined.file_names.tolist() == [name.split("/")[1] for name in names]


def test_an_image_keeps_its_part_whatever_else_is_in_the_set():
    ids = np.array([*range(1000), -5, 2**40])
    parts = Folds(5).parts(ids)
    order = np.random.default_rng(0).permutation(len(ids))[:300]
    np.testing.assert_array_equal(Folds(5).parts(ids[order]), parts[order])
    assert np.bincount(parts).min() > 160  # about equal


def test_parts_are_the_published_hash():
    """Figures of other people's folds compare only while the parts stay what they are."""
    parts = Folds(5).parts(np.arange(1, 641))
    assert hashlib.sha256(bytes(parts.astype(np.uint8))).hexdigest()[:16] == "2e2df7791146f74f"


def test_an_empty_part_is_refused(coco_set):
    whole = load_annotations(coco_set.json)
    with pytest.raises(UserError, match=r"data\.folds: with 6 images in 50 parts, none is held out"):
        Folds(50, int(np.setdiff1d(np.arange(50), Folds(50).parts(whole.image_ids))[0])).split(whole)


def test_a_limit_chooses_images_by_id_and_a_larger_one_adds_to_them(coco_set):
    whole = load_annotations(coco_set.json)
    backwards = select_images(whole, np.arange(len(whole))[::-1])
    sets = [limited(whole, number, 16) for number in range(1, len(whole) + 3)]
    ids = [set(part.image_ids.tolist()) for part in sets]
    assert [len(each) for each in ids] == [1, 2, 3, 4, 5, 5, 5, 5]  # one image has no ROI
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(ids))
    assert set(limited(backwards, 3, 16).image_ids.tolist()) == ids[2]
    assert content(sets[2]) == {i: content(whole)[i] for i in ids[2]}
