"""Each wrong ONNX file ends in one line that names it; what is read gives features."""

from __future__ import annotations

import pytest
import torch
from faults.bad_detectors import DETECTORS, LAYER
from helpers import make_onnx

from roiseg.cli.entry import explain
from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess

OF_EXTRACTOR = ("onnx_path", "layers", "providers", "threads")


def open_detector(path, options):
    """Open a detector and run it on two pictures."""
    given = {"onnx_path": str(path), "layers": [LAYER], "threads": 1, "image_size": [64, 64], **options}
    own = {key: given.pop(key) for key in OF_EXTRACTOR if key in given}
    extractor = OnnxExtractor(preprocess=Preprocess(**given), **own)
    features = extractor(torch.full((2, 64, 64, 3), 128, dtype=torch.uint8))
    return extractor, features


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector(tmp_path, name):
    case = DETECTORS[name]
    (tmp_path / "nets").mkdir()
    path = make_onnx(tmp_path / "nets" / "detector.onnx")
    case.spoil(path)
    before = sorted(tmp_path.rglob("*"))
    if not case.words:
        extractor, features = open_detector(path, case.options)
        assert [f.shape[1:] for f in features] == [torch.Size(shape) for shape in extractor.shapes]
        assert all(torch.isfinite(f).all() for f in features)
    else:
        with pytest.raises(UserError) as caught:
            open_detector(path, case.options)
        line = explain(caught.value)
        assert line.isprintable()
        for word in case.words:
            assert word in line
    assert sorted(tmp_path.rglob("*")) == before
