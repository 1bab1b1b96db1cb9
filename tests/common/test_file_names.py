"""An image is found by its name however the list that names it was written: by training and by boxes files."""

import json
import unicodedata

import numpy as np
import pytest
from helpers import rectangle, write_coco
from PIL import Image
from tiny_dataset import make

from roiseg.common.errors import UserError
from roiseg.inference.box_files import open_boxes
from roiseg.inference.sources.image_files import open_source

NAME = "dossier é/photo ü.png"
FORMS = {
    "as it is": NAME,
    "composed": unicodedata.normalize("NFC", NAME),
    "decomposed": unicodedata.normalize("NFD", NAME),
    "backslash": NAME.replace("/", "\\"),
    "with a dot": f"./{NAME}",
}


def json_boxes(folder, listed, **size):
    record = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [10, 10, 30, 40]}
    image = {"id": 0, "file_name": listed, **size}
    (folder / "x.json").write_text(json.dumps({"images": [image], "annotations": [record]}))
    return open_boxes(folder / "x.json")


def box_files(folder, listed):
    """The same box of an image in every kind of file."""
    (folder / "x.csv").write_text(f"file,x1,y1,x2,y2\n{listed},10,10,40,50\n", encoding="utf-8")
    label = folder / "labels" / f"{listed.replace(chr(92), '/').rpartition('.')[0]}.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(f"0 {25 / 80} {30 / 64} {30 / 80} {40 / 64}")
    others = [open_boxes(folder / name) for name in ("x.csv", "labels")]
    return [json_boxes(folder, listed, width=80, height=64), *others]


@pytest.mark.parametrize("on_disk", ["composed", "decomposed"])
@pytest.mark.parametrize("listed", FORMS)
def test_every_spelling_of_a_name_is_found(tmp_path, on_disk, listed):
    files = write_coco(tmp_path, {FORMS[on_disk]: (64, 80)},
                       [{"file": FORMS[on_disk], "segmentation": rectangle(10, 10, 40, 50)}])  # fmt: skip
    content = files.content()
    content["images"][0]["file_name"] = FORMS[listed]
    files.json.write_text(json.dumps(content))
    assert make(files)[0].image.any()
    (frame,) = open_source(str(files.images))
    for boxes in box_files(tmp_path, FORMS[listed]):
        assert boxes.lists(frame.name)
        np.testing.assert_allclose(boxes.find(frame, (64, 80)).boxes, [[10, 10, 40, 50]], atol=1e-3)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("size", [(64, 80), (80, 80)])
def test_boxes_of_a_photograph_as_stored_are_not_those_of_the_turned_one(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size[::-1]).save(tmp_path / "a.png", exif=exif)
    (frame,) = open_source(str(tmp_path / "a.png"))
    shown = frame.read().shape[:2]
    with pytest.raises(UserError, match=r"a\.png"):
        json_boxes(tmp_path, "a.png", width=size[1], height=size[0]).find(frame, shown)
    assert not json_boxes(tmp_path, "a.png").find(frame, shown).size_matches
