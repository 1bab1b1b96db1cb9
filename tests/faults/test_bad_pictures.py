"""Each wrong image ends in one line that names it, or is left out and counted; each odd one is read right."""

import json

import numpy as np
import pytest
from faults.bad_pictures import PICTURES
from helpers import rectangle, user_error, write_coco
from tiny_dataset import make

from roiseg.data.images import read_image


def set_with(folder, case):
    """A set of the bad image and a good one."""
    sizes = {"a.jpg": (64, 80), "b.jpg": (64, 80)}
    instances = [{"file": name, "segmentation": rectangle(10, 10, 40, 50)} for name in sizes]
    files = write_coco(folder, sizes, instances)
    content = files.content()
    content["images"][0]["width"], content["images"][0]["height"] = case.record
    files.json.write_text(json.dumps(content))
    case.write(files.images / "a.jpg")
    return files


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = PICTURES[name]
    files = set_with(tmp_path / "set", case)
    before = sorted(tmp_path.rglob("*"))
    taken = []
    line = user_error(lambda: taken.append(make(files)[0]))
    skipping = make(files, skip_damaged=True)
    if case.words is None:
        assert line == "" and not taken[0].skipped
        image = read_image(files.images / "a.jpg", case.record[::-1])
        assert image.shape == (*case.record[::-1], 3)
        if "exif" not in name:
            np.testing.assert_allclose(image[:, 5:35].mean(), 30, atol=31)  # 1 bit: 0
            np.testing.assert_allclose(image[:, 45:75].mean(), 230, atol=26)
    else:
        assert case.words in line and "a.jpg" in line and "\n" not in line
        assert "a.jpg" in skipping[0].skipped
    assert len(skipping[1].rois) == 1
    assert sorted(tmp_path.rglob("*")) == before
