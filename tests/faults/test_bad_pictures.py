"""Each wrong image ends in one line that names it, or is left out and counted; each odd one is read right."""

from __future__ import annotations

import json

import numpy as np
import pytest
from faults.bad_pictures import PICTURES
from helpers import rectangle, write_coco

from roiseg.common.errors import UserError
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.dataset import RoiDataset
from roiseg.data.images import read_image
from roiseg.data.targets import TargetSpec
from roiseg.geometry.transform import Letterbox

SPEC = TargetSpec("roi", (14, 14), 3, (64, 64))


def set_with(folder, case):
    """A set of the bad image and a good one."""
    files = write_coco(
        folder,
        {"a.jpg": (64, 80), "b.jpg": (64, 80)},
        [{"file": name, "segmentation": rectangle(10, 10, 40, 50)} for name in ("a.jpg", "b.jpg")],
    )
    content = files.content()
    content["images"][0]["width"], content["images"][0]["height"] = case.record
    files.json.write_text(json.dumps(content))
    case.write(files.images / "a.jpg")
    return files


def dataset(files, **options):
    views = Views(Letterbox((64, 64)), Augment())
    return RoiDataset(load_annotations(files.json), files.images, views, SPEC, **options)


def outcome(function):
    """What a function gives, and the line it ends in; any other error passes through."""
    try:
        return function(), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    case = PICTURES[name]
    files = set_with(tmp_path / "set", case)
    before = sorted(tmp_path.rglob("*"))
    sample, line = outcome(lambda: dataset(files)[0])
    skipping = dataset(files, skip_damaged=True)
    if case.words is None:
        assert line == ""
        assert not sample.skipped
        image = read_image(files.images / "a.jpg", case.record[::-1])
        assert image.shape == (*case.record[::-1], 3)
        if "exif" not in name:
            np.testing.assert_allclose(image[:, 5:35].mean(), 30, atol=31)  # 1 bit: 0
            np.testing.assert_allclose(image[:, 45:75].mean(), 230, atol=26)
    else:
        assert case.words in line
        assert "a.jpg" in line
        assert "\n" not in line
        assert skipping[0].skipped
        assert "a.jpg" in skipping[0].skipped
    assert len(skipping[1].rois) == 1
    assert sorted(tmp_path.rglob("*")) == before
