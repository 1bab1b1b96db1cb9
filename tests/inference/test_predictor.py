"""An image once, masks for boxes as often as wanted: the same as the test of a run gives."""

import copy
import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch
from helpers import user_error
from onnx import numpy_helper
from tiny_run import EVERY, make, run_test, tiny_data, tiny_extractor, tiny_module, trained_model

from roiseg.common.errors import UserError
from roiseg.common.limits import TooMuch
from roiseg.data.images import read_image
from roiseg.data.tta import TTA
from roiseg.decoders.sam import SamDecoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.geometry.rle import decode
from roiseg.inference.checkpoint import load_model
from roiseg.inference.model import TorchModel
from roiseg.inference.predictor import Predictor
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.web.models import to_json

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def extractor(onnx_file):
    return tiny_extractor(onnx_file, align="topleft")


@pytest.fixture
def picture(coco_set):
    return read_image(coco_set.images / "a.jpg")


BOXES = [[10, 12, 49, 70], [36, 12, 80, 68]]


@pytest.fixture
def predictor(checkpoint, picture):
    """A predictor whose image is set."""
    predictor = Predictor.from_checkpoint(checkpoint)
    predictor.set_image(picture)
    return predictor


@pytest.fixture(scope="module")
def checkpoint(finished):
    return finished.checkpoint


@pytest.fixture(scope="module")
def model(checkpoint):
    """The trained model, of category 7."""
    model = load_model(checkpoint)
    return dataclasses.replace(model, config={**model.config, "data": {"category_id": 7}})


@pytest.fixture(scope="module")
def exported(model, finished, tmp_path_factory):
    """That model as a file without the detector."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:  # its decoder was exported with another category
        graph = onnx.load(finished.exported())
        patch.setattr("roiseg.onnx_export.export.export_decoder", lambda *_: graph)
        assert export_model(model, path, ExportOptions()).passed
    return path


@pytest.mark.parametrize(("mirrored", "closer"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", EVERY)
def test_masks_are_those_of_the_test(name, mirrored, closer, extractor, coco_set, tmp_path):
    decoder = make(name, extractor)
    tta = TTA(mirrored, (1.2, 1.6) if closer else (), 0.75)
    options = {"needs_images": "detail" in name, "metric_size": (56, 56), "tta": tta}
    data = tiny_data(coco_set, extractor, decoder, **options)
    _, seen = run_test(tiny_module(decoder), data, tmp_path)
    predictor = Predictor(TorchModel(trained_model(decoder, extractor), extractor), tta)
    compared = 0
    for batch, outputs in seen:
        records = iter(outputs.records)
        for sample, boxes in zip(batch.samples, batch.original_boxes(), strict=True):
            predictor.set_image(read_image(coco_set.images / sample.file_name))
            prediction = predictor.predict(boxes)
            assert prediction.non_targets is not None and len(prediction) == len(boxes)
            for index, truth in enumerate(sample.truth.rles):
                mask, wanted = prediction.mask(index), decode(truth)
                union = np.count_nonzero(mask | wanted)
                iou = np.count_nonzero(mask & wanted) / union
                assert iou == pytest.approx(next(records).iou, abs=2e-3)  # boxes went to input and back
                compared += 1
    assert compared == 10


def test_the_detector_runs_once_a_picture(checkpoint, picture, monkeypatch):
    predictor, runs, real = Predictor.from_checkpoint(checkpoint), [], OnnxExtractor.run
    monkeypatch.setattr(OnnxExtractor, "run", lambda self, tensor: runs.append(1) or real(self, tensor))
    predictor.set_image(picture)
    first = predictor.predict(BOXES)
    second = predictor.predict(BOXES[1:])
    assert len(runs) == 1
    np.testing.assert_allclose(first.probabilities[1], second.probabilities[0], atol=1e-5)
    predictor.set_image(picture[:, ::-1].copy())
    predictor.predict(BOXES)
    assert len(runs) == 2


def test_scores_and_threshold_are_kept(predictor):
    low, high = (predictor.predict(BOXES, scores=[0.3, 0.6], threshold=t) for t in (0.2, 0.8))
    assert low.scores.tolist() == pytest.approx([0.3, 0.6])
    assert np.all(low.masks() >= high.masks()) and low.masks().sum() > high.masks().sum()


def test_masks_stay_within_picture_and_box(predictor):
    assert len(predictor.predict([])) == len(predictor.predict(np.zeros((0, 4)))) == 0
    prediction = predictor.predict([[-20, -10, 30, 40], [90, 70, 140, 120]], threshold=0.0)
    assert prediction.windows == [(0, 0, 30, 40), (90, 70, 100, 80)]


@pytest.mark.parametrize(("call", "words"), [
    (lambda p, i: p.predict(BOXES), "set_image"),
    (lambda p, i: p.set_image(i.astype(np.float32)), "float32"),
    (lambda p, i: p.set_image(i[..., 0]), "RGB uint8"), (lambda p, i: p.set_image(i[:0]), "empty"),
    (lambda p, i: p.set_image("a.jpg"), "str"),
    (lambda p, i: (p.set_image(i), p.predict([[5, 5, 5, 9]])), r"boxes\[0\]"),
    (lambda p, i: (p.set_image(i), p.predict([BOXES[0], [1, 2, np.nan, 4]])), r"boxes\[1\]"),
    (lambda p, i: (p.set_image(i), p.predict([[1, 2, 3]])), "x1, y1, x2, y2"),
    (lambda p, i: (p.set_image(i), p.predict(BOXES, scores=[1])), "scores"),
    (lambda p, i: (p.set_image(i), p.predict(BOXES, scores=[np.nan, 1])), "scores must be finite"),
    (lambda p, i: (p.set_image(i), p.predict(BOXES, points=np.zeros((2, 1, 3)))), "points"),
    (lambda p, i: (p.set_image(i), p.predict()), "postprocess"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(call, words, checkpoint, picture):
    predictor = Predictor.from_checkpoint(checkpoint)
    with pytest.raises(UserError, match=words) as caught:
        call(predictor, picture)
    assert "\n" not in str(caught.value)


def test_what_is_no_exported_file_or_lacks_its_detector_is_told(
    exported, onnx_file, dynamic_onnx_file, tmp_path
):
    (tmp_path / "text.onnx").write_text("{}")
    for path in (onnx_file, tmp_path / "text.onnx", tmp_path / "missing.onnx"):
        assert path.name in user_error(Predictor.from_onnx, path)
    assert "onnx_path" in user_error(Predictor.from_onnx, exported)
    assert "SHA-256" in user_error(Predictor.from_onnx, exported, str(dynamic_onnx_file))


def test_clicks_reach_a_decoder_that_reads_them(extractor, picture):
    torch.manual_seed(0)
    decoder = SamDecoder(extractor.channels, extractor.strides, (64, 64), output_size=(32, 32))
    predictor = Predictor(TorchModel(trained_model(decoder, extractor), extractor))
    predictor.set_image(picture)
    masks = [
        predictor.predict(BOXES[:1], points=[[[x, 40, label]]]).probabilities[0]
        for x, label in ((20, 1), (20, 0), (20, -1))
    ]
    none = predictor.predict(BOXES[:1]).probabilities[0]
    assert not np.allclose(masks[0], masks[1]) and not np.allclose(masks[0], none)


@pytest.mark.parametrize("kind", ["checkpoint", "exported"])
def test_results_have_the_category_of_the_model(kind, model, exported, picture):
    extractor = model.extractor()
    if kind == "checkpoint":
        predictor = Predictor(TorchModel(model, extractor))
    else:
        predictor = Predictor.from_onnx(exported, extractor.onnx_path)
    predictor.set_image(picture)
    prediction = predictor.predict(BOXES)
    assert {record["category_id"] for record in prediction.to_coco(1)} == {7}
    assert {record["category_id"] for record in to_json(prediction, 1)["results"]} == {7}


@pytest.mark.parametrize(("kind", "value"), [("checkpoint", math.inf), ("exported", math.nan)])
def test_probabilities_that_are_not_numbers_are_refused(kind, value, model, exported, picture, tmp_path):
    if kind == "checkpoint":
        spoilt = dataclasses.replace(model, path=tmp_path / "model.pth", decoder=copy.deepcopy(model.decoder))
        torch.nn.init.constant_(spoilt.decoder.predict.bias, value)
        predictor = Predictor(TorchModel(spoilt, model.extractor()))
    else:
        file = onnx.load(exported)
        for weight in file.graph.initializer:
            if weight.name.endswith("bias"):
                spoilt = np.full(tuple(weight.dims), value, np.float32)
                weight.CopyFrom(numpy_helper.from_array(spoilt, weight.name))
        onnx.save(file, tmp_path / "model.onnx")
        predictor = Predictor.from_onnx(tmp_path / "model.onnx", model.extractor().onnx_path)
    predictor.set_image(picture)
    with pytest.raises(UserError, match=r"model\.(pth|onnx) gives probabilities that are nan or infinite"):
        predictor.predict(BOXES)


def test_masks_at_full_resolution_are_made_one_after_another(checkpoint, monkeypatch):
    monkeypatch.setattr("roiseg.inference.predictor.MASK_BYTES", 2 * 4 * 600 * 500)
    predictor = Predictor.from_checkpoint(checkpoint)
    predictor.set_image(np.zeros((500, 600, 3), np.uint8))
    prediction = predictor.predict(np.tile(np.float32([0, 0, 600, 500]), (6, 1)))
    first, again = ([prediction.probabilities[index] for index in range(6)] for _ in range(2))
    assert [one is two for one, two in zip(first, again, strict=True)] == [True, True, *[False] * 4]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(prediction.masks(), np.stack(first) >= 0.5)
    monkeypatch.setattr("roiseg.inference.prediction.STACK_BYTES", 1_000_000)
    assert "crop(index)" in user_error(prediction.masks)


def test_too_many_boxes_are_refused(predictor):
    with pytest.raises(TooMuch, match=r"20,000 boxes .* 2,000 at most"):
        predictor.predict(np.tile(np.float32(BOXES[:1]), (20_000, 1)))
