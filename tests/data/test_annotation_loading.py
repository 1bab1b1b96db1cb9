"""Annotations that can be read and are hardly meant so: each kind is told with its count, by training and doctor."""

import json
import re

import numpy as np
import pytest
from helpers import ellipse, person, write_coco
from omegaconf import OmegaConf

from roiseg.data.annotation_loading import load_annotations
from roiseg.diagnosis.files import data_sets
from roiseg.diagnosis.finding import Diagnosis

SIZE = (120, 200)  # H, W
OUTLINES = [[person(40, 10, 100)], [ellipse(150, 60, 30, 20), ellipse(150, 90, 10, 15)], [person(90, 50, 60)]]
OUTLINES += [[ellipse(20 + 16 * n, 100, 7, 12)] for n in range(5)]


FRACTIONS = "seems to contain fractions"
MISTAKES = [
    ("bbox", FRACTIONS, lambda x, y, w, h: [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]]),
    ("bbox", "`bbox` seems to contain x1, y1, x2, y2", lambda x, y, w, h: [x, y, x + w, y + h]),
    ("bbox", "`bbox` seems to begin with the centre", lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
    ("bbox", "x and y seem to be exchanged", lambda x, y, w, h: [y, x, h, w]),
    ("segmentation", FRACTIONS, lambda points, width: points / SIZE[::-1]),
    ("segmentation", "x and y seem to be exchanged", lambda points, width: points[:, ::-1]),
    ("segmentation", "check `segmentation` and `bbox`", lambda points, width: points + 0.2 * width),
]


@pytest.fixture
def made(tmp_path):
    """A sound file, and a function that changes its records and reads it: warnings of training and of doctor."""
    files = write_coco(tmp_path, {"a.png": SIZE}, [{"file": "a.png", "segmentation": o} for o in OUTLINES])

    def change(spoil, first=0, **options):
        content = files.content()
        for record in content["annotations"][first:]:
            spoil(record)
        files.json.write_text(json.dumps(content))
        data = {"train_annotations": str(files.json), "val_annotations": "", "folds": None, "min_roi_size": 1}
        data |= {"category_id": 1, "index_dir": str(tmp_path / "index"), "crowd": "region", **options}
        data["reader"] = {"_target_": "roiseg.data.coco_reader.CocoReader"}
        report = Diagnosis()
        data_sets(OmegaConf.create({"data": data}), report)
        told = [f.text for f in report.findings if f.state != "ok" and "for training" not in f.text]
        assert all(str(files.json) in text for text in told)
        return told

    change.json = files.json
    return change


def test_a_sound_file_is_not_doubted(made, caplog):
    assert made(lambda record: None) == []
    assert caplog.text == ""


@pytest.mark.parametrize(("field", "reason", "change"), MISTAKES)
def test_outlines_that_do_not_fit_their_boxes_are_told_with_a_reason(made, caplog, field, reason, change):
    def spoil(record):
        if field == "bbox":
            record["bbox"] = change(*record["bbox"])
        else:
            parts = [np.reshape(part, (-1, 2)) for part in record["segmentation"]]
            record["segmentation"] = [change(part, record["bbox"][2]).ravel().tolist() for part in parts]

    (told,) = (text for text in made(spoil, first=1) if "without area" not in text)
    found = re.search(r"(\d) of [78] outlines do not fit their boxes, such as annotation [23] of a.png", told)
    assert 5 <= int(found[1]) <= 7
    assert (f"`{field}` {reason}" if reason == FRACTIONS else reason) in told
    assert told in caplog.text


def test_crowds_are_counted_and_may_be_read_as_instances(made, caplog):
    (told,) = made(lambda record: record.update(iscrowd=1), first=3)
    assert "5 of 8 instances are marked `iscrowd`" in told and "data.crowd=instance" in told
    assert told in caplog.text
    assert made(lambda record: None, crowd="instance") == []
    for index in (None, made.json.parent / "index"):
        assert not load_annotations(made.json, index_dir=index, crowd="instance").crowd.any()
        assert load_annotations(made.json, index_dir=index).crowd.sum() == 5
