"""Annotation files that are wrong, each named with its field."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from helpers import ellipse, hole_rle, segmentation_mask

from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data.annotation_loading import load_annotations
from roiseg.geometry import rle


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid json"),
        ("{", "not valid json"),
        ('{"images": [], "annotations": [}', "line 1 column"),
        (b"\xff\xfe\x00", "not valid json"),
        ("[" * 100_000, "not valid json"),
        ("[]", "no list `images`"),
        ("null", "no list `images`"),
        ("{}", "no list `images`"),
        ('{"images": {}, "annotations": []}', "no list `images`"),
        ('{"images": []}', "no list `annotations`"),
        ('{"images": [], "annotations": 3}', "no list `annotations`"),
    ],
)
def test_a_file_that_is_not_coco_json_is_named(load, text, words):
    with pytest.raises(UserError, match=words) as caught:
        load(text)
    assert "instances.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_how_far_its_path_exists(tmp_path):
    with pytest.raises(UserError, match="annotations file not found") as caught:
        load_annotations(tmp_path / "no" / "such.json")
    assert f"{tmp_path} exists" in str(caught.value)


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_annotations(tmp_path)


def test_json_that_is_well_is_returned_as_it_is(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2.5, null, "ü"]}', encoding="utf-8")
    assert read_json(path, "numbers") == {"a": [1, 2.5, None, "ü"]}


HUGE = 10**400

BAD_IMAGES = [
    ("id", [None, "7", 7.0, True, HUGE]),
    ("height", [None, 0, -3, 60.5, "60", True, HUGE, 2**40]),
    ("width", [None, 0, -3, 80.0, [80]]),
    ("file_name", [None, "", 3, ["a.jpg"]]),
    ("file_name", ["../a.jpg", "x/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a.jpg", "\\\\host\\a.jpg",
                   "a\0.jpg", ".."]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD_IMAGES for v in values])
def test_a_wrong_image_record_is_named_with_its_field(content, load, field, value):
    content["images"].append({"id": 8, "file_name": "b.jpg", "height": 6, "width": 8} | {field: value})
    with pytest.raises(UserError, match=r"images\[1\] in .*instances\.json") as caught:
        load(content)
    assert field in str(caught.value)


@pytest.mark.parametrize("field", ["id", "height", "width", "file_name"])
def test_a_missing_field_of_an_image_is_named(content, load, field):
    del content["images"][0][field]
    with pytest.raises(UserError, match=rf"images\[0\] in .*`{field}`"):
        load(content)


@pytest.mark.parametrize("name", ["sub/a.jpg", "a..b.jpg", "train2017/000.jpg", ".hidden.jpg", "ü ñ.jpg"])
def test_names_within_the_folder_are_taken(content, load, name):
    content["images"][0]["file_name"] = name
    assert list(load(content).file_names) == [name]


def square_with(value):
    return [[10, 10, 40, value, 40, 50]]


BAD_INSTANCES = [
    ("id", [None, "3", 3.5, True, HUGE, [1]]),
    ("image_id", [None, 8, "7", 7.0, [7], True]),
    ("bbox", [None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1,2,3,4", [1, 2, 3, "4"], [1, 2, 3, None], {},
              [0, 0, math.nan, 5], [0, 0, math.inf, 5], [HUGE, 0, 5, 5], [True, 0, 5, 5]]),
    ("iscrowd", [2, -1, "0", None, [], 0.5]),
    ("segmentation", [None, "abc", 5, [5], ["abc"], [[10, 10, 40, 10, 40]], square_with("1"),
                      square_with(None), square_with(math.nan), square_with(-math.inf), square_with(HUGE),
                      square_with(True), [{"counts": [1]}], square_with(1e9), square_with(-1e6)]),
    ("segmentation", [{}, {"counts": [4800]}, {"size": [80, 60], "counts": [4800]},
                      {"size": 5, "counts": [4800]}, {"size": None, "counts": [4800]},
                      {"size": [60, 80], "counts": [4799]}, {"size": [60, 80], "counts": [-1, 4801]},
                      {"size": [60, 80], "counts": "???"}, {"size": [60, 80], "counts": "é"},
                      {"size": [60, 80], "counts": None}]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD_INSTANCES for v in values])
def test_a_wrong_instance_is_named_with_its_field(content, load, field, value):
    broken = copy.deepcopy(content["annotations"][0]) | {"id": 4} | {field: value}
    content["annotations"].append(broken)
    with pytest.raises(UserError, match=r"annotations\[1\] in .*instances\.json") as caught:
        load(content)
    assert f"`{field}`" in str(caught.value)
    assert field == "id" or "(id 4)" in str(caught.value)


@pytest.mark.parametrize("field", ["id", "image_id", "bbox", "segmentation"])
def test_a_missing_field_of_an_instance_is_named(content, load, field):
    del content["annotations"][0][field]
    with pytest.raises(UserError, match=rf"annotations\[0\] in .*`{field}`"):
        load(content)


def test_a_missing_crowd_flag_means_no_crowd(content, load):
    del content["annotations"][0]["iscrowd"]
    assert not load(content).crowd.any()


@pytest.mark.parametrize("key", ["images", "annotations"])
@pytest.mark.parametrize("value", [None, 3, "x", []])
def test_a_record_that_is_no_object_is_named(content, load, key, value):
    content[key].append(value)
    with pytest.raises(UserError, match=rf"{key}\[1\] in .*instances\.json is not an object"):
        load(content)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_a_duplicate_id_is_named(content, load, key):
    content[key].append(copy.deepcopy(content[key][0]))
    with pytest.raises(UserError, match=rf"{key}\[1\] in .*occurs twice"):
        load(content)


@pytest.mark.parametrize(
    ("categories", "told"), [([18], "18"), ([18, 2], "18, 2"), ([], "no annotations"), ([[1]], r"\[1\]")]
)
def test_a_file_without_a_person_says_what_it_has(content, load, categories, told):
    template = content["annotations"][0]
    content["annotations"] = [template | {"id": n, "category_id": c} for n, c in enumerate(categories)]
    with pytest.raises(UserError, match=rf"no instance of category_id 1 \(it has {told}\)") as caught:
        load(content)
    assert "another category_id" in str(caught.value)


def test_a_file_whose_only_person_has_no_area_has_no_person(content, load):
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    with pytest.raises(UserError, match="no instance of category_id 1"):
        load(content)


def test_outlines_a_little_outside_the_image_are_taken(content, load):
    outline = ellipse(5, 5, 40, 30)
    content["annotations"][0]["segmentation"] = [outline]
    got = rle.decode(load(content).outlines(0).rle(0))
    np.testing.assert_array_equal(got, segmentation_mask([outline], 60, 80))


def test_a_hole_and_its_size_must_be_those_of_the_image(content, load):
    content["annotations"][0]["segmentation"] = hole_rle(61, 80, (1, 1, 50, 50), (5, 5, 9, 9))
    with pytest.raises(UserError, match=r"annotations\[0\] .*RLE size \[61, 80\]"):
        load(content)


def test_a_scribble_that_would_take_gigabytes_is_named(load):
    zigzag = [value for n in range(1500) for value in ((9000, n) if n % 2 else (0, 9000 - n))]
    record = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 9000, 9000]}
    image = {"id": 1, "file_name": "a.jpg", "width": 9000, "height": 9000}
    with pytest.raises(UserError, match=r"annotations\[0\] .* pixels long, 2,000,000 at most"):
        load(json.dumps({"images": [image], "annotations": [{**record, "segmentation": [zigzag]}]}))
