"""Items of the tiny set, in training and evaluation; annotation files to be spoilt."""

import json
import shutil

import pytest
from helpers import rectangle
from tiny_dataset import AUGMENT, make

from roiseg.data.annotation_loading import load_annotations
from roiseg.data.samplers import RoiSampler


@pytest.fixture
def training(coco_set):
    return make(coco_set, sampler=RoiSampler(3), augment=AUGMENT, seed=4)


@pytest.fixture
def evaluation(coco_set):
    return make(coco_set)


@pytest.fixture
def broken_set(coco_set, tmp_path):
    """A copy of the tiny set, to be spoilt."""
    shutil.copytree(coco_set.json.parent, tmp_path / "set")
    return type(coco_set)(tmp_path / "set" / coco_set.json.name, tmp_path / "set" / "images")


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
