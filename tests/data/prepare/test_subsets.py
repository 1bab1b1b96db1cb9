"""Persons that are no crowd, and subsets of their images."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from coco_folder import coco_dict, reference

from roiseg.common.errors import UserError
from roiseg.data.prepare.persons import person_only, subset


def test_keeps_exactly_persons_that_are_no_crowd() -> None:
    coco = coco_dict(60, seed=5)
    before = json.dumps(coco)
    made = person_only(coco, "file")
    images, persons = reference(coco)
    assert (made["images"], made["annotations"]) == (images, persons)
    assert 0 < len(images) < 60
    assert (made["info"], made["licenses"]) == (coco["info"], coco["licenses"])
    assert made["categories"] == [{"id": 1, "name": "person"}]
    assert json.dumps(coco) == before


def test_subsets_are_nested_deterministic_and_depend_on_the_seed() -> None:
    full = person_only(coco_dict(200, seed=1), "file")
    shuffled = {**full, "images": full["images"][::-1]}

    def ids(size: int, seed: int, of: dict[str, Any] = full) -> set[int]:
        return {image["id"] for image in subset(of, size, seed)["images"]}

    for seed in (0, 1):
        assert (len(ids(10, seed)), len(ids(50, seed))) == (10, 50)
        assert ids(10, seed) < ids(50, seed)
    assert ids(50, 0) != ids(50, 1)
    assert ids(50, 0, shuffled) == ids(50, 0)
    persons = [a for a in full["annotations"] if a["image_id"] in ids(10, 0)]
    assert subset(full, 10, 0)["annotations"] == persons
    assert subset(full, 10_000, 0) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1, "name": "cat"}]}, "category 1 is not `person`"),
        ({"images": []}, "is of image 5, not in `images`"),
        ({"annotations": None}, "no list `annotations`"),
        ({"annotations": [{"id": 7}]}, "no valid field 'category_id'"),
        ({"annotations": []}, "no image shows a person"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        person_only({**coco_dict(20, seed=3), **change}, "some.json")
    assert str(caught.value).startswith("some.json")
