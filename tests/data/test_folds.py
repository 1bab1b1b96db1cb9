"""Sets that are joined, selected from, and split into folds: nothing but the images changes."""

import hashlib
import json

import numpy as np
import pytest
from helpers import ellipse, hole_rle, rectangle

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.folds import Folds, join_annotations, select_images


def write(folder, image_ids):
    """A set whose images have 0, 1, 2, ... instances, polygons and RLEs in turn."""
    images, instances = [], []
    for number, image_id in enumerate(image_ids):
        height, width = 60 + number, 80 + number
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        for k in range((number + 1) % 4):
            segmentation = [ellipse(20 + 9 * k, 25, 8, 15), rectangle(2 + k, 50, 9, 57)]
            if k == 1:
                segmentation = hole_rle(height, width, (30, 5, 60, 50), (35, 10, 40, 20))
            instances.append(
                {"id": 1000 * image_id + k, "image_id": image_id, "category_id": 1, "iscrowd": int(k == 2),
                 "bbox": [5 + k, 6, 30, 45], "segmentation": segmentation}
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": instances}))
    return load_annotations(folder / "instances.json")


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


@pytest.mark.parametrize("order", [[3], [4, 2, 0], [6, 5, 4, 3, 2, 1, 0], []])
def test_a_part_holds_what_the_set_says_of_its_images(tmp_path, order):
    whole = write(tmp_path, [7, 3, 11, 2, 9, 40, 5])
    part = select_images(whole, np.array(order, np.int64))
    assert part.image_ids.tolist() == whole.image_ids[order].tolist()
    assert content(part) == {i: content(whole)[i] for i in part.image_ids.tolist()}
    assert len(part.first) == len(part) + 1
    assert len(part.part_ends) == part.parts[-1]


def test_a_joined_set_holds_all_images_of_its_sets(tmp_path):
    one, two = write(tmp_path / "one", [7, 3, 11, 2]), write(tmp_path / "two", [1, 8, 30])
    joined, folder = join_annotations([(one, tmp_path / "images/train"), (two, tmp_path / "images/val")])
    assert folder == tmp_path / "images"
    assert content(joined) == content(one) | content(two)
    names = [f"train/{i}.jpg" for i in (7, 3, 11, 2)] + [f"val/{i}.jpg" for i in (1, 8, 30)]
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


def test_an_empty_part_is_refused(tmp_path):
    whole = write(tmp_path, [1, 2])
    with pytest.raises(UserError, match=r"data\.folds: with 2 images in 50 parts, none is held out"):
        Folds(50, int(np.setdiff1d(np.arange(50), Folds(50).parts(whole.image_ids))[0])).split(whole)
