"""What is read of an annotation file."""

from __future__ import annotations

import contextlib
import functools
import io
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import TINY_IMAGES, rectangle, write_coco
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotations import Annotations
from roiseg.geometry import rle

REAL = ["train", "val"]


def real_json(realdata, split):
    return realdata / f"coco128_person/annotations/instances_{split}2017_person_only_no_crowd.json"


def official(path):
    """The file as pycocotools reads it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


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


# --- which can be a ROI ---------------------------------------------------------------------------


def test_rois_are_neither_crowd_nor_small(coco_set):
    annotations = load_annotations(coco_set.json)
    eligible = {str(name): list(annotations.eligible(i, 16)) for i, name in enumerate(annotations.file_names)}
    assert eligible == {"a.jpg": [0, 1], "b.jpg": [0], "c.jpg": [0, 1], "d.jpg": [1, 2], "e.jpg": [0, 1, 2],
                        "empty.jpg": []}  # fmt: skip


@pytest.mark.parametrize(("least", "count"), [(0, 1), (29.99, 1), (30, 1), (30.01, 0), (1000, 0)])
def test_both_sides_of_a_roi_have_the_least_size(content, load, least, count):
    assert len(load(content).eligible(0, least)) == count


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
