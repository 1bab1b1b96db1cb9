"""What is read of an annotation file; wrong files are in tests/faults."""

import contextlib
import io
import json

import numpy as np
import pytest
from helpers import TINY_IMAGES, rectangle, segmentation_mask, write_coco
from pycocotools.coco import COCO

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.geometry import rle


def test_instances_may_be_in_any_order_in_the_file(coco_set, load):
    def known(content):
        found = load(content)
        instances = [(i, position) for i in range(len(found)) for position in range(len(found.instances(i)))]
        rles = [str(found.outlines(i).rle(position)) for i, position in instances]
        return sorted(zip(found.ids.tolist(), found.boxes.tolist(), rles, strict=True))

    content = coco_set.content()
    turned = content | {"annotations": content["annotations"][::-1]}
    assert known(content) == known(turned)


def test_images_and_instances_are_those_of_the_file_in_its_order(coco_set):
    annotations, records = load_annotations(coco_set.json), coco_set.content()["annotations"]
    assert list(annotations.file_names) == list(TINY_IMAGES)
    assert [annotations.size(i) for i in range(len(annotations))] == list(TINY_IMAGES.values())
    for i, image_id in enumerate(annotations.image_ids):
        wanted = [r for r in records if r["image_id"] == image_id and r["category_id"] == 1]
        assert annotations.ids[annotations.instances(i)].tolist() == [r["id"] for r in wanted]
        assert annotations.crowd[annotations.instances(i)].tolist() == [bool(r["iscrowd"]) for r in wanted]
        for record, box in zip(wanted, annotations.pixel_boxes(i), strict=True):
            x, y, w, h = record["bbox"]
            np.testing.assert_allclose(box, [x, y, x + w, y + h], atol=1e-3)


def test_a_box_that_leaves_the_image_is_cut_to_it(content, load):
    content["annotations"][0]["bbox"] = [-5, -7, 200, 300]
    np.testing.assert_array_equal(load(content).pixel_boxes(0), [[0, 0, 80, 60]])


def test_a_compressed_run_length_string_is_read(content, load):
    mask = segmentation_mask([rectangle(10, 20, 40, 50)], 60, 80)
    counts = rle.encode(mask)["counts"].decode()
    content["annotations"][0]["segmentation"] = {"size": [60, 80], "counts": counts}
    np.testing.assert_array_equal(rle.decode(load(content).outlines(0).rle(0)), mask)


def check_against_pycocotools(path):
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(path))
    annotations, count = load_annotations(path), 0
    for i in range(len(annotations)):
        for position, n in enumerate(annotations.instances(i)):
            record = reference.anns[int(annotations.ids[n])]
            want = reference.annToRLE(record)
            got = annotations.outlines(i).rle(position)
            counts = want["counts"].encode() if isinstance(want["counts"], str) else want["counts"]
            assert (got["counts"], list(got["size"])) == (counts, list(want["size"])), record["id"]
            count += 1
    return count


def test_outlines_equal_those_of_pycocotools(coco_set):
    assert check_against_pycocotools(coco_set.json) == 12


def test_coordinates_between_two_fifths_of_a_pixel_and_outside_the_image_are_read_as_by_pycocotools(tmp_path):
    """It rounds to fifths of a pixel: 10.1 is a tie that the last bit decides."""
    rng = np.random.default_rng(0)
    outlines = [
        (rng.integers(-200, 4400, (9, 2)) / 10 + 0.1 * rng.integers(0, 2)).round(2).ravel().tolist()
        for _ in range(60)
    ]
    instances = [{"file": "a.png", "segmentation": outline} for outline in outlines]
    files = write_coco(tmp_path, {"a.png": (401, 433)}, instances)
    assert check_against_pycocotools(files.json) == 60


def test_a_pixel_counts_as_1_where_no_image_says_its_size(coco_set, content, load):
    assert load_annotations(coco_set.json).pixel_sizes.tolist() == [1.0] * len(TINY_IMAGES)
    content["images"][0]["pixel_size_um"] = None
    assert load(content).pixel_sizes.tolist() == [1.0]


def test_rois_are_neither_crowd_nor_small(coco_set):
    annotations = load_annotations(coco_set.json)
    eligible = {str(name): list(annotations.eligible(i, 16)) for i, name in enumerate(annotations.file_names)}
    assert eligible == {"a.jpg": [0, 1], "b.jpg": [0], "c.jpg": [0, 1], "d.jpg": [1, 2], "e.jpg": [0, 1, 2],
                        "empty.jpg": []}  # fmt: skip
    for least in (0, 16, 30, 35, 500):
        counts = [len(annotations.eligible(i, least)) for i in range(len(annotations))]
        assert annotations.eligible_counts(least).tolist() == counts


@pytest.mark.parametrize(("least", "count"), [(0, 1), (29.99, 1), (30, 1), (30.01, 0), (1000, 0)])
def test_both_sides_of_a_roi_have_the_least_size(content, load, least, count):
    assert len(load(content).eligible(0, least)) == count


def test_a_missing_file_says_how_far_its_path_exists_and_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="annotations file not found") as caught:
        load_annotations(tmp_path / "no" / "such.json")
    assert f"{tmp_path} exists" in str(caught.value)
    with pytest.raises(UserError, match="is a folder"):
        load_annotations(tmp_path)


def test_a_scribble_that_would_take_gigabytes_is_named(load):
    zigzag = [value for n in range(1500) for value in ((9000, n) if n % 2 else (0, 9000 - n))]
    record = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 9000, 9000]}
    image = {"id": 1, "file_name": "a.jpg", "width": 9000, "height": 9000}
    with pytest.raises(UserError, match=r"annotations\[0\] .* pixels long, 2,000,000 at most"):
        load(json.dumps({"images": [image], "annotations": [{**record, "segmentation": [zigzag]}]}))
