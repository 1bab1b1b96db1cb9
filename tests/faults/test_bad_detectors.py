"""Each wrong ONNX file ends in one line that names it; what is read gives features."""

import io

import pytest
import torch
from faults.bad_detectors import DETECTORS, LAYER
from helpers import make_onnx
from rich.console import Console

from roiseg.common.errors import UserError
from roiseg.config.entry import user_message
from roiseg.config.validation import check_types
from roiseg.diagnosis.detector import inputs_and_outputs, overview, tensor_table
from roiseg.diagnosis.finding import Diagnosis
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.rows import Rows
from roiseg.extractor.postprocess.yolo import Yolo
from roiseg.extractor.preprocess import Preprocess
from roiseg.extractor.tensors import list_tensors

OF_EXTRACTOR = ("onnx_path", "layers", "providers", "threads")


def open_detector(path, options):
    """Open a detector and run it on two images."""
    given = {"onnx_path": str(path), "layers": [LAYER], "threads": 1, "image_size": [64, 64], **options}
    own = {key: given.pop(key) for key in OF_EXTRACTOR if key in given}
    kind = "roiseg.extractor.onnx_extractor.OnnxExtractor"
    preprocess = {"_target_": "roiseg.extractor.preprocess.Preprocess", **given}
    check_types({"_target_": kind, **own, "preprocess": preprocess}, "extractor")
    extractor = OnnxExtractor(preprocess=Preprocess(**given), **own)
    features = extractor(torch.full((2, 64, 64, 3), 128, dtype=torch.uint8))
    return extractor, features


def describe(path):
    """What the doctor and adapters of boxes do with it: describe it and look for its head, or refuse in a line."""
    report = Diagnosis()
    with report.guard("detector"):
        model = load_onnx(path)
        report.add(*inputs_and_outputs(model))
        tensors = list_tensors(model, (64, 64), str(path))
        report.add(overview(tensors))
        Console(file=io.StringIO()).print(tensor_table(tensors, [LAYER]))
    report.show()
    for adapter in (Yolo(), Rows(["x1", "y1", "x2", "y2", "score"])):
        with report.guard("boxes"):
            OnnxExtractor(str(path), [LAYER], Preprocess((64, 64)), threads=1, postprocess=adapter).head()
    assert all(finding.text.isprintable() for finding in report.findings if finding.state == "error")


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
        for feature in features:  # two like images
            torch.testing.assert_close(feature[0], feature[1])
    else:
        with pytest.raises(UserError) as caught:
            open_detector(path, case.options)
        line = user_message(caught.value)
        assert line.isprintable() and all(word in line for word in case.words), line
    describe(path)
    assert sorted(tmp_path.rglob("*")) == before
