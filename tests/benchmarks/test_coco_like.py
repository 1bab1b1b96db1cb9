import json
from collections import Counter

import numpy as np
import pytest

from benchmarks import coco_like
from benchmarks.coco_like import write_set
from roiseg.data.annotation_loading import load_annotations

IMAGES = 1500


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "instances.json"
    return path, write_set(path, IMAGES)


@pytest.fixture(scope="module")
def content(made):
    return json.loads(made[0].read_text())


def test_the_loader_takes_it_as_it_is(made, caplog):
    path, persons = made
    annotations = load_annotations(path)
    assert (len(annotations), len(annotations.ids)) == (IMAGES, persons)
    assert not caplog.records
    assert (annotations.eligible_counts(0) > 0).all()


def test_persons_an_image_are_those_of_coco(made, content):
    _, persons = made
    assert persons / IMAGES == pytest.approx(262_465 / 64_115, rel=0.005)
    per_image = Counter(Counter(record["image_id"] for record in content["annotations"]).values())
    assert set(per_image) == set(coco_like.PERSONS_AN_IMAGE)
    total = sum(coco_like.PERSONS_AN_IMAGE.values())
    for number, images in coco_like.PERSONS_AN_IMAGE.items():
        assert per_image[number] / IMAGES == pytest.approx(images / total, abs=0.01)


def test_parts_points_and_boxes_are_those_of_coco(content):
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    records = content["annotations"]
    parts = Counter(len(record["segmentation"]) for record in records)
    assert parts[1] / len(records) == pytest.approx(232 / 254, abs=0.01)
    points = [len(part) // 2 for record in records for part in record["segmentation"]]
    steps = np.linspace(0, 1, len(coco_like.POINTS_A_PART))
    np.testing.assert_allclose(np.quantile(points, steps), coco_like.POINTS_A_PART, atol=1.5)
    box, image = np.array([r["bbox"][2:] for r in records]), np.array([sizes[r["image_id"]] for r in records])
    side = np.sqrt((box / image).prod(axis=1))
    middle = slice(1, 16)  # the largest are cut where they would leave their image
    np.testing.assert_allclose(np.quantile(side, steps)[middle], coco_like.SIDE[middle], rtol=0.04)


def test_the_same_seed_gives_the_same_file(made, tmp_path):
    first, again = tmp_path / "a.json", tmp_path / "b.json"
    for path, seed in ((first, 3), (again, 3), (tmp_path / "c.json", 4)):
        write_set(path, 40, [(60, 80)], seed)
    assert first.read_bytes() == again.read_bytes() != (tmp_path / "c.json").read_bytes()
    assert {(i["height"], i["width"]) for i in json.loads(first.read_text())["images"]} == {(60, 80)}
