from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY_IMAGES, ellipse, hole_rle, rectangle, segmentation_mask, write_coco
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data import rle
from roiseg.data.annotations import Annotations
from roiseg.data.coco_json import load_annotations

REAL = ["train", "val"]


def real_json(realdata, split):
    return realdata / f"coco128_person/annotations/instances_{split}2017_person_only_no_crowd.json"


def official(path):
    """The file as pycocotools reads it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture
def content():
    """A minimal sound file, to be spoilt."""
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 60, "width": 80}],
        "annotations": [
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [10, 10, 30, 40], "iscrowd": 0,
             "segmentation": [rectangle(10, 10, 40, 50)]},
        ],
    }  # fmt: skip


@pytest.fixture
def load(tmp_path):
    """Write a content (object or text) and load it."""

    def write_and_load(content, **options):
        path = tmp_path / "instances.json"
        data = content if isinstance(content, (bytes, str)) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return load_annotations(path, **options)

    return write_and_load


# --- what is read ---------------------------------------------------------------------------------


def test_images_keep_their_order_names_and_sizes(coco_set):
    annotations = load_annotations(coco_set.json)
    assert len(annotations) == len(TINY_IMAGES)
    assert list(annotations.file_names) == list(TINY_IMAGES)
    assert [annotations.size(i) for i in range(len(annotations))] == list(TINY_IMAGES.values())


def test_instances_belong_to_their_image_and_keep_their_order(coco_set):
    annotations = load_annotations(coco_set.json)
    for i, image_id in enumerate(annotations.image_ids):
        want = [r["id"] for r in coco_set.content()["annotations"] if r["image_id"] == image_id]
        found = [int(n) for n in annotations.ids[annotations.instances(i)]]
        assert found == [n for n in want if n != 3]  # 3 is the dog


def test_instances_may_be_in_any_order_in_the_file(coco_set, load):
    content = coco_set.content()
    straight = load(content)
    content["annotations"].reverse()
    reversed_ = load(content)
    for i in range(len(straight)):
        ids, other_ids = ([int(n) for n in a.ids[a.instances(i)]] for a in (straight, reversed_))
        assert set(ids) == set(other_ids)
        for n, identity in enumerate(ids):
            other = other_ids.index(identity)
            np.testing.assert_array_equal(straight.pixel_boxes(i)[n], reversed_.pixel_boxes(i)[other])
            assert straight.outlines(i).rle(n) == reversed_.outlines(i).rle(other)


def test_boxes_are_the_files_own_in_corner_form(coco_set):
    annotations = load_annotations(coco_set.json)
    records = {r["id"]: r for r in coco_set.content()["annotations"]}
    for i in range(len(annotations)):
        for n, box in zip(annotations.instances(i), annotations.pixel_boxes(i), strict=True):
            x, y, w, h = records[int(annotations.ids[n])]["bbox"]
            np.testing.assert_allclose(box, [x, y, x + w, y + h], atol=1e-3)


def test_a_box_that_leaves_the_image_is_cut_to_it(content, load):
    content["annotations"][0]["bbox"] = [-5, -7, 200, 300]
    np.testing.assert_array_equal(load(content).pixel_boxes(0), [[0, 0, 80, 60]])


def test_polygons_and_runs_are_told_apart(coco_set):
    annotations = load_annotations(coco_set.json)
    polygons = {}
    for i in range(len(annotations)):
        outlines = annotations.outlines(i)
        for n, identity in enumerate(annotations.ids[annotations.instances(i)]):
            polygons[int(identity)] = len(outlines.pixels(n))
    assert [n for n, count in polygons.items() if not count] == [6, 8]


def test_every_part_of_a_polygon_is_kept(coco_set):
    annotations = load_annotations(coco_set.json)
    outlines = annotations.outlines(4)
    want = [rectangle(66, 10, 84, 30), rectangle(68, 42, 82, 66)]
    assert [part.ravel().tolist() for part in outlines.pixels(len(outlines) - 1)] == want


def test_a_compressed_run_length_string_is_read(content, load):
    mask = np.zeros((60, 80), np.uint8)
    mask[20:50, 10:40] = 1
    counts = rle.encode(mask)["counts"].decode()
    content["annotations"][0]["segmentation"] = {"size": [60, 80], "counts": counts}
    annotations = load(content)
    np.testing.assert_array_equal(rle.decode(annotations.outlines(0).rle(0)), mask)


def test_a_hole_stays_a_hole(coco_set):
    annotations = load_annotations(coco_set.json)
    mask = rle.decode(annotations.outlines(2).rle(0))
    assert mask[12, 12]
    assert not mask[34, 28]


def check_against_pycocotools(path):
    reference, annotations = official(path), load_annotations(path)
    count = 0
    for i in range(len(annotations)):
        for position, n in enumerate(annotations.instances(i)):
            record = reference.anns[int(annotations.ids[n])]
            want = reference.annToRLE(record)
            got = annotations.outlines(i).rle(position)
            want_counts = want["counts"].encode() if isinstance(want["counts"], str) else want["counts"]
            assert got["counts"] == want_counts, f"instance {record['id']}"
            assert list(got["size"]) == list(want["size"])
            assert annotations.crowd[n] == record["iscrowd"]
            count += 1
    return count


def test_outlines_equal_those_of_pycocotools(coco_set):
    assert check_against_pycocotools(coco_set.json) == 12


@pytest.mark.realdata
@pytest.mark.parametrize("split", REAL)
def test_outlines_of_real_persons_equal_those_of_pycocotools(realdata, split):
    assert check_against_pycocotools(real_json(realdata, split)) == {"train": 203, "val": 51}[split]


def test_coordinates_between_two_fifths_of_a_pixel_are_not_pushed_over(tmp_path):
    """pycocotools rounds to fifths of a pixel: 10.1 is a tie that the last bit decides."""
    rng = np.random.default_rng(0)
    outlines = [
        [float(v) for v in (rng.integers(0, 4000, (9, 2)) / 10 + 0.1 * rng.integers(0, 2)).round(2).ravel()]
        for _ in range(60)
    ]
    instances = [{"file": "a.png", "segmentation": outline} for outline in outlines]
    files = write_coco(tmp_path, {"a.png": (401, 433)}, instances)
    assert check_against_pycocotools(files.json) == 60


# --- pixel sizes ----------------------------------------------------------------------------------


def test_pixel_sizes_are_read_in_micrometres(content, load):
    content["images"] = [
        content["images"][0] | {"id": 7 + n, "pixel_size_um": size} for n, size in enumerate([0.25, 1, 2.5e3])
    ]
    annotations = load(content)
    assert annotations.pixel_sizes.tolist() == [0.25, 1.0, 2500.0]
    assert annotations.pixel_sizes.dtype == np.float32


def test_a_pixel_counts_as_1_where_no_image_says_its_size(coco_set, content, load):
    assert load_annotations(coco_set.json).pixel_sizes.tolist() == [1.0] * len(TINY_IMAGES)
    content["images"][0]["pixel_size_um"] = None
    assert load(content).pixel_sizes.tolist() == [1.0]


@pytest.mark.parametrize("without", [0, 1])
def test_a_pixel_size_on_some_images_only_is_a_user_error(content, load, without):
    content["images"].append(content["images"][0] | {"id": 8})
    content["images"][1 - without]["pixel_size_um"] = 0.5
    with pytest.raises(UserError, match=rf"images\[{without}\] in .* has no `pixel_size_um`.* all or none"):
        load(content)


@pytest.mark.parametrize("size", [0, -0.5, "0.5", True, [0.5], {}, math.nan, math.inf, 10**400])
def test_an_impossible_pixel_size_is_named(content, load, size):
    content["images"][0]["pixel_size_um"] = size
    with pytest.raises(UserError, match=r"images\[0\] in .*`pixel_size_um` must be a number of micrometres"):
        load(content)


# --- which can be a ROI ---------------------------------------------------------------------------


def test_rois_are_neither_crowd_nor_small(coco_set):
    annotations = load_annotations(coco_set.json)
    eligible = {str(name): list(annotations.eligible(i, 16)) for i, name in enumerate(annotations.file_names)}
    assert eligible == {"a.jpg": [0, 1], "b.jpg": [0], "c.jpg": [0, 1], "d.jpg": [1, 2], "e.jpg": [0, 1, 2],
                        "empty.jpg": []}  # fmt: skip


@pytest.mark.parametrize(("least", "count"), [(0, 1), (29.99, 1), (30, 1), (30.01, 0), (1000, 0)])
def test_both_sides_of_a_roi_have_the_least_size(content, load, least, count):
    assert len(load(content).eligible(0, least)) == count


@pytest.mark.parametrize("least", [0, 1, 16, 20.5, 50, 1000])
def test_counts_of_the_whole_set_are_those_of_its_images(coco_set, least):
    annotations = load_annotations(coco_set.json)
    one_by_one = [len(annotations.eligible(i, least)) for i in range(len(annotations))]
    assert annotations.eligible_counts(least).tolist() == one_by_one


@given(st.lists(st.tuples(*[st.floats(0, 200, allow_nan=False)] * 4, st.booleans()), min_size=1, max_size=8),
       st.floats(0, 60))  # fmt: skip
def test_counts_agree_whatever_the_boxes(boxes, least):
    sizes = np.array([(60, 80), (33, 71), (640, 427)], np.int32)
    first = np.array([0, len(boxes) // 2, len(boxes) // 2, len(boxes)])
    corners = np.sort(np.array([b[:4] for b in boxes], np.float32).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    annotations = SimpleNamespace(
        sizes=sizes, first=first, boxes=corners / 200, crowd=np.array([b[4] for b in boxes])
    )
    annotations.size = lambda image: tuple(int(v) for v in sizes[image])
    for name in ("pixel_boxes", "all_pixel_boxes", "all_eligible"):
        setattr(annotations, name, functools.partial(getattr(Annotations, name), annotations))
    one_by_one = [len(Annotations.eligible(annotations, image, least)) for image in range(3)]
    assert Annotations.eligible_counts(annotations, least).tolist() == one_by_one


# --- what is left out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        {"bbox": [10, 10, 0, 40]},
        {"bbox": [10, 10, 30, 0]},
        {"bbox": [10, 10, -5, 40]},
        {"bbox": [90, 10, 20, 20]},  # beside the image
        {"segmentation": []},
        {"segmentation": [[10, 10, 20, 20]]},
        {"segmentation": [[10, 10], []]},
        {"segmentation": {"size": [60, 80], "counts": [4800]}},
    ],
    ids=str,
)
def test_an_instance_without_area_is_dropped_with_a_warning(content, load, caplog, spoil):
    broken = copy.deepcopy(content["annotations"][0]) | {"id": 4} | spoil
    content["annotations"].append(broken)
    with caplog.at_level(logging.WARNING):
        annotations = load(content)
    assert list(annotations.ids) == [3]
    assert "1 instances without area" in caplog.text
    assert "instances.json" in caplog.text


def test_parts_of_fewer_than_three_points_are_dropped_from_an_outline(content, load):
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    assert len(load(content).outlines(0).pixels(0)) == 1


def test_a_sound_file_gives_no_warning(coco_set, caplog):
    load_annotations(coco_set.json)
    assert not caplog.records


def test_other_categories_are_left_out_even_if_broken(content, load):
    content["annotations"].append({"id": 3, "category_id": 18, "bbox": "none"})
    assert list(load(content).ids) == [3]


def test_another_category_can_be_chosen(coco_set):
    annotations = load_annotations(coco_set.json, category_id=18)
    assert list(annotations.ids) == [3]


def test_images_without_instances_stay(content, load):
    content["images"].insert(0, {"id": 1, "file_name": "b.jpg", "height": 5, "width": 5})
    annotations = load(content)
    assert len(annotations) == 2
    assert len(annotations.instances(0)) == 0
    assert len(annotations.instances(1)) == 1
    assert annotations.eligible(0, 16).shape == (0,)


# --- mistakes -------------------------------------------------------------------------------------


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
