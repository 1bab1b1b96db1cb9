"""Each wrong annotation file ends in one line that names file and field; what is taken can be used."""

import logging

import numpy as np
import pytest
from faults.bad_annotations import ANNOTATIONS
from PIL import Image
from tiny_dataset import LETTERBOX, SPEC

from roiseg.common.errors import UserError
from roiseg.config.entry import user_message
from roiseg.data.analysis import analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.copy_paste import CopyPaste
from roiseg.data.dataset import RoiDataset
from roiseg.data.samplers import RoiSampler

NAMES = ("a.jpg", "b.jpg", "ü ñ 人 🧍.jpg")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        Image.new("RGB", (80, 64)).save(folder / name)
    return folder


def use(path, pictures, index_dir=None):
    """All that training, evaluation and analysis do with annotations."""
    annotations = load_annotations(path, index_dir=index_dir)
    paste = Augment(paste=CopyPaste(probability=1.0, min_size=8))
    samples = []
    for options in ({}, {"sampler": RoiSampler()}):
        views = Views(LETTERBOX, paste if options else Augment())
        dataset = RoiDataset(annotations, pictures, views, SPEC, **options)
        samples += [dataset[item] for item in range(len(dataset))]
    return annotations, samples, analyze(annotations, min_roi_size=16, grid=14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "error::UserWarning", "error::RuntimeWarning")
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_an_annotation_file(tmp_path, pictures, caplog, name):
    case = ANNOTATIONS[name]
    path = tmp_path / "instances.json"
    path.write_bytes(case.content)
    if case.words:
        with pytest.raises(UserError) as caught:
            use(path, pictures)
        line = user_message(caught.value)
        assert line.isprintable() and all(word in line for word in ("instances.json", *case.words)), line
        with pytest.raises(UserError):  # nor is anything kept that a later run would open
            use(path, pictures, tmp_path / "index")
        return
    for _ in range(2):  # parsed, then out of the index
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            annotations, samples, analysis = use(path, pictures, tmp_path / "index")
        assert [case.warning in record.message for record in caplog.records] == [True] * bool(case.warning)
        assert analysis["totals"]["rois"] >= 1
        assert all(np.isfinite(sample.rois).all() for sample in samples)
        assert annotations.pixel_boxes(0).tolist() == [[10, 10, 40, 50]]
        assert annotations.outlines(0).rle(0)["size"] == [64, 80]
