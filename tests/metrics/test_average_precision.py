"""COCO's figures against a case worked out by hand, and against the official tool called through its files."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from roiseg.data.annotation_loading import load_annotations
from roiseg.metrics.average_precision import average_precision, gt_records

SIZE = (120, 160)


def record(image, box, **more):
    x1, y1, x2, y2 = box
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    rle = {"size": list(SIZE), "counts": coco_mask.encode(mask)["counts"].decode()}
    return {
        "image_id": image, "category_id": 1, "segmentation": rle, "bbox": [x1, y1, x2 - x1, y2 - y1], **more,
    }  # fmt: skip


def truth(number, image, box, crowd=0):
    x1, y1, x2, y2 = box
    return record(image, box, id=number, iscrowd=crowd, area=float((x2 - x1) * (y2 - y1)))


def result(image, box, score):
    return record(image, box, score=score)


def test_nothing_predicted_and_nothing_annotated(capsys):
    assert average_precision([truth(1, 1, (0, 0, 9, 9))], [], [1])["AP"] == 0
    assert average_precision([], [result(1, (0, 0, 9, 9), 1.0)], [1])["AP"] is None
    assert capsys.readouterr().out == ""


def test_more_than_a_hundred_persons_in_an_image_all_count():
    boxes = [(x, y, x + 8, y + 8) for x in range(0, 160, 10) for y in range(0, 120, 10)]
    truths = [truth(number, 1, box) for number, box in enumerate(boxes, 1)]
    assert len(truths) > 100
    figures = average_precision(truths, [result(1, box, 0.5) for box in boxes], [1])
    assert figures["AP"] == pytest.approx(1) and figures["AR"] == pytest.approx(1)


@pytest.mark.parametrize("ids", [(0, 1), (1, 0), (-1, -2), (5, 5)])
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_no_id_of_an_annotation_matters(ids, kind):
    """The tool alone reads 0 as no match, and keeps one of two records of an id (files that are joined)."""
    boxes = [(0, 0, 40, 40), (60, 0, 100, 40)]
    truths = [truth(ids[image], image, box) for image, box in enumerate(boxes)]
    results = [result(image, box, 0.9) for image, box in enumerate(boxes)]
    figures = average_precision(truths, results, [0, 1], kind)
    assert figures["AP"] == figures["AR"] == 1


boxes = st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(10, 60), st.integers(10, 55)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(
    st.lists(st.tuples(st.integers(1, 3), boxes, st.sampled_from([0, 0, 0, 1])), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 3), boxes, st.floats(0.01, 1)), min_size=1, max_size=8),
    st.sampled_from(["segm", "bbox"]),
)
def test_equal_to_the_official_tool_called_through_its_own_loading(annotated, predicted, kind):
    truths = [truth(number, *one) for number, one in enumerate(annotated, 1)]
    results = [result(*one) for one in predicted]
    images = [{"id": number, "height": SIZE[0], "width": SIZE[1]} for number in (1, 2, 3)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        given = {"images": images, "annotations": truths, "categories": [{"id": 1}]}
        coco.dataset = json.loads(json.dumps(given))
        coco.createIndex()
        official = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), kind)
        official.evaluate()
        official.accumulate()
        official.summarize()
    figures = average_precision(truths, results, [1, 2, 3], kind)
    recall = official.eval["recall"][0, 0, 0, -1]  # at IoU 0.5, of all areas
    assert figures["AR50"] == (None if recall == -1 else pytest.approx(recall))
    names = {0: "AP", 1: "AP50", 2: "AP75", 3: "AP_small", 4: "AP_medium", 5: "AP_large", 8: "AR", 9: "AR_small",
             10: "AR_medium", 11: "AR_large"}  # fmt: skip
    for at, name in names.items():
        expected = official.stats[at]
        assert figures[name] == (None if expected == -1 else pytest.approx(expected))


def test_truths_are_the_wanted_instances_and_all_crowds(coco_set):
    annotations = load_annotations(coco_set.json)
    content = {a["id"]: a for a in coco_set.content()["annotations"]}
    for image in range(len(annotations)):
        wanted = annotations.eligible(image, 16)
        records = gt_records(annotations, image, wanted)
        ids = {r["id"] for r in records if not r["iscrowd"]}
        assert ids == {int(annotations.ids[annotations.instances(image)[i]]) for i in wanted}
        crowds = {
            a["id"] for a in content.values()
            if a["iscrowd"] and a["image_id"] == int(annotations.image_ids[image])
        }  # fmt: skip
        assert {r["id"] for r in records if r["iscrowd"]} == crowds
        for record in records:
            assert record["area"] == pytest.approx(content[record["id"]]["area"])
            assert record["image_id"] == content[record["id"]]["image_id"]
