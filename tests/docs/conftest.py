"""The files that the pages speak of, small and drawn."""

import json
import shutil

import pytest
from helpers import make_onnx

CAR = 3


@pytest.fixture
def your_files(coco_set, tmp_path):
    """`my_detector.onnx` (640x640), `my_data/` (cars, in a file with other categories) and `street.jpg`."""
    make_onnx(tmp_path / "my_detector.onnx", size=(640, 640))
    data = tmp_path / "my_data"
    shutil.copytree(coco_set.images, data / "images")
    content = coco_set.content()
    for record in content["annotations"]:
        record["category_id"] = {1: CAR, 18: 1}[record["category_id"]]
    content["categories"] = [{"id": 1, "name": "person"}, {"id": CAR, "name": "car"}]
    for name in ("train", "val"):
        (data / f"{name}.json").write_text(json.dumps(content))
    shutil.copy(coco_set.images / "a.jpg", tmp_path / "street.jpg")
    return tmp_path
