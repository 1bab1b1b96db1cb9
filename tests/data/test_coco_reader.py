"""Annotation files that are wrong, each named with its field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import ellipse, segmentation_mask

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.geometry import rle


def test_a_missing_file_says_how_far_its_path_exists_and_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="annotations file not found") as caught:
        load_annotations(tmp_path / "no" / "such.json")
    assert f"{tmp_path} exists" in str(caught.value)
    with pytest.raises(UserError, match="is a folder"):
        load_annotations(tmp_path)


@pytest.mark.parametrize("name", ["sub/a.jpg", "a..b.jpg", ".hidden.jpg", "ü ñ.jpg"])
def test_names_within_the_folder_are_taken(content, load, name):
    content["images"][0]["file_name"] = name
    assert list(load(content).file_names) == [name]


def test_a_missing_crowd_flag_means_no_crowd(content, load):
    del content["annotations"][0]["iscrowd"]
    assert not load(content).crowd.any()


@pytest.mark.parametrize(
    ("categories", "told"), [([18], "18"), ([18, 2], "18, 2"), ([], "no annotations"), ([[1]], r"\[1\]")]
)
def test_a_file_without_a_person_says_what_it_has(content, load, categories, told):
    template = content["annotations"][0]
    content["annotations"] = [template | {"id": n, "category_id": c} for n, c in enumerate(categories)]
    with pytest.raises(UserError, match=rf"no instance of category_id 1 \(it has {told}\)") as caught:
        load(content)
    assert "another category_id" in str(caught.value)
    content["annotations"] = [template | {"bbox": [0, 0, 0, 0]}]  # a person without area is none
    with pytest.raises(UserError, match="no instance of category_id 1"):
        load(content)


def test_outlines_a_little_outside_the_image_are_taken(content, load):
    outline = ellipse(5, 5, 40, 30)
    content["annotations"][0]["segmentation"] = [outline]
    got = rle.decode(load(content).outlines(0).rle(0))
    np.testing.assert_array_equal(got, segmentation_mask([outline], 60, 80))


def test_a_scribble_that_would_take_gigabytes_is_named(load):
    zigzag = [value for n in range(1500) for value in ((9000, n) if n % 2 else (0, 9000 - n))]
    record = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 9000, 9000]}
    image = {"id": 1, "file_name": "a.jpg", "width": 9000, "height": 9000}
    with pytest.raises(UserError, match=r"annotations\[0\] .* pixels long, 2,000,000 at most"):
        load(json.dumps({"images": [image], "annotations": [{**record, "segmentation": [zigzag]}]}))
