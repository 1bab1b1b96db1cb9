"""The detector's own boxes inside the exported file."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from helpers import onnx_session
from onnx import helper, numpy_helper
from tiny_run import tiny_decoder, trained_model, with_random_weights
from wholebody import COLUMNS, LAYER, SIZE, red_picture, wholebody_config, wholebody_extractor

from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.rows import BoxesAndScores, EfficientNms, Rows
from roiseg.extractor.postprocess.yolo import Yolo, Yolox
from roiseg.extractor.preprocess import Preprocess
from roiseg.inference.decision import Votes
from roiseg.inference.model import TorchModel, open_model
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.predictor import Predictor
from roiseg.onnx_export.boxes import BoxReader, export_boxes
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import MaskGraph

VOTES = Votes(exclusive=True, weight=0.5, bias=0.2, score_slope=0.4, score_offset=0.7)
pytestmark = [pytest.mark.slow_except, pytest.mark.filterwarnings("ignore")]


def yolox_head(rng, classes=3):
    cells = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32))
    boxes = [rng.uniform(-1, 2, (cells, 2)), rng.normal(0.3, 0.8, (cells, 2))]
    return np.concatenate([*boxes, rng.random((cells, 1 + classes))], 1)[None]


def yolo_head(rng):
    boxes = [rng.uniform(-10, 100, (2, 126)), rng.uniform(2, 60, (2, 126))]
    return np.concatenate([*boxes, rng.random((3, 126))])[None]


def rows(rng, count):
    corner = rng.uniform(-10, 80, (count, 2))
    boxes = [corner, corner + rng.uniform(5, 40, (count, 2))]
    label, score = rng.integers(0, 3, (count, 1)), rng.random((count, 1))
    return np.concatenate([np.zeros((count, 1)), label, score, *boxes], 1)


CASES = {
    "yolox": (Yolox(labels=[2, 0], max_detections=30), [yolox_head] * 2),
    "yolo, all classes": (Yolo(labels=None, score_threshold=0.7), [yolo_head] * 2),
    "rows": (Rows(COLUMNS), [lambda rng, n=n: rows(rng, n) for n in (0, 1, 2, 40)]),
    "boxes and class scores": (
        BoxesAndScores("xyxy", normalized=False, labels=[2, 0]),
        [lambda rng, n=n: np.concatenate([rows(rng, n)[:, 3:], rng.random((n, 3))], 1) for n in (0, 2, 40)],
    ),
    "class logits": (
        BoxesAndScores(activation="softmax", iou_threshold=None),
        [lambda rng: np.concatenate([rng.uniform(0.1, 0.9, (40, 4)), rng.normal(0, 3, (40, 4))], 1)],
    ),
    "rows with NMS": (
        Rows(COLUMNS, iou_threshold=0.3, labels=[0, 2], score_threshold=0),
        [lambda rng, n=n: rows(rng, n)[None] for n in (0, 1, 2, 40)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("postprocess", "heads"), CASES.values(), ids=CASES)
def test_the_graph_finds_what_the_adapter_finds(postprocess, heads):
    rng = np.random.default_rng(0)
    model = export_boxes(BoxReader(postprocess, "head", heads[0](rng).shape, SIZE), opset=18)
    onnx.checker.check_model(model, full_check=True)
    run = onnx_session(model)
    counts = []
    for head in heads:
        raw = head(rng).astype(np.float32)
        boxes, scores, rois = run.run(["boxes", "scores", "rois"], {"detector_output": raw})
        wanted = postprocess(raw, SIZE)
        assert boxes.shape == wanted.boxes.shape
        np.testing.assert_allclose(boxes, wanted.boxes, atol=1e-4)
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-6)
        np.testing.assert_allclose(rois * [96, 64, 96, 64], wanted.boxes, atol=1e-3)
        counts.append(len(wanted))
    assert max(counts) > 2


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return wholebody_extractor(tmp_path_factory.mktemp("wholebody"))


@pytest.fixture(scope="module")
def model(extractor):
    torch.manual_seed(0)
    decoder = with_random_weights(tiny_decoder(extractor), 0.2)
    return replace(trained_model(decoder, extractor, wholebody_config(extractor)), decision=VOTES)


@pytest.fixture(scope="module")
def exported(model, extractor, tmp_path_factory):
    """(file, check)."""
    path = tmp_path_factory.mktemp("boxes") / "model.onnx"
    return path, export_model(model, path, ExportOptions(merged=True, boxes=True), extractor)


@pytest.mark.parametrize("cells", [[], [(2, 3)], [(0, 0), (7, 11), (4, 4), (4, 5)]], ids=len)
def test_the_file_equals_the_adapter_followed_by_the_decoder(cells, exported, model, extractor):
    image = extractor.preprocess(red_picture(*cells))
    outputs = ["boxes", "scores", "masks", "mask_scores"]
    given = {"images": image.numpy()}
    boxes, scores, masks, mask_scores = onnx_session(exported[0]).run(outputs, given)
    features, (found,) = extractor.run_with_detections(image)
    assert len(found) == len(cells)
    np.testing.assert_allclose(boxes, found.boxes, atol=1e-3)
    np.testing.assert_allclose(scores, found.scores, atol=1e-6)
    rois = torch.from_numpy(found.boxes / np.array([96, 64, 96, 64], np.float32))
    with torch.no_grad():
        wanted, wanted_scores = MaskGraph(model.decoder, decision=VOTES)(features, rois)
    assert masks.shape == (len(cells), *SIZE)
    np.testing.assert_allclose(masks, wanted, atol=1e-4)
    np.testing.assert_allclose(mask_scores, wanted_scores, atol=1e-4)
    assert all(mask.max() > 0.05 for mask in masks)


def test_the_file_says_what_it_takes_and_gives(exported, model):
    path, check = exported
    run = onnx_session(path)
    assert [given.name for given in run.get_inputs()] == ["images"]
    outputs = {output.name: output.shape[1:] for output in run.get_outputs()}
    assert outputs == {"boxes": [4], "scores": [], "masks": list(SIZE), "mask_scores": []}
    assert all(isinstance(output.shape[0], str) for output in run.get_outputs())
    assert check.passed and check.detections > 5
    assert 0 <= check.boxes == check.summary()["boxes"] <= 1e-2
    stored = OnnxFile(path)
    assert stored.finds_boxes and stored.merged
    assert "pixels of the input" in stored.metadata["boxes"]
    assert "scores" in stored.metadata["scores"]
    assert "rois" not in stored.metadata
    assert json.loads(stored.metadata["image_input"]) == "images"
    assert stored.postprocess == model.config["extractor"]["postprocess"]


def test_predictor_gives_the_boxes_and_masks_of_the_file(exported, model, extractor):
    image = np.kron(red_picture((2, 3), (4, 5), (7, 11))[0].numpy(), np.ones((2, 2, 1), np.uint8))
    found, expected = (Predictor(one) for one in (open_model(onnx=exported[0]), TorchModel(model, extractor)))
    for predictor in (found, expected):
        predictor.set_image(image)
    ours, theirs = found.predict(), expected.predict()
    assert len(ours) == 3
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-2)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_allclose(ours.mask_scores, theirs.mask_scores, atol=0.02)
    assert (ours.masks() == theirs.masks()).mean() > 0.99
    some = found.predict(ours.boxes[-1:])
    assert (some.masks() == ours.masks()[-1:]).all()
    assert len(found.predict(np.zeros((0, 4)))) == 0
    with pytest.raises(UserError, match="takes no boxes because it detects them itself"):
        found.predict(ours.boxes[:1] + 3)


def test_a_wrong_adapter_is_found_out_by_the_check(model, extractor, tmp_path, monkeypatch):
    honest = Rows.__call__

    def greedier(self, raw, image_size):
        found = honest(self, raw, image_size)
        return type(found)(found.boxes + 1, found.scores, found.labels)

    monkeypatch.setattr(Rows, "__call__", greedier)
    with pytest.raises(UserError, match=r"differs from PyTorch by .* boxes by"):
        export_model(model, tmp_path / "model.onnx", ExportOptions(merged=True, boxes=True), extractor)
    assert not list(tmp_path.iterdir())


def test_heads_of_several_tensors_are_joined_in_the_file(model, tmp_path):
    """Number of boxes, boxes, scores, labels: those beyond the number are not there."""
    boxes = np.array([[[8, 8, 40, 40], [20, 4, 60, 60], [1, 1, 9, 9]]], np.float32)
    tensors = {
        "det_num": np.array([[2]], np.int32), "det_boxes": boxes, "det_scores": np.array([[0.6, 0.9, 0.8]], np.float32),
        "det_classes": np.zeros((1, 3), np.int32),
    }  # fmt: skip
    whole = onnx.load(str(model.config["extractor"]["onnx_path"]))
    del whole.graph.output[1:]
    for name, value in tensors.items():
        whole.graph.initializer.append(numpy_helper.from_array(value, f"{name} value"))
        whole.graph.node.append(helper.make_node("Identity", [f"{name} value"], [name]))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        whole.graph.output.append(helper.make_tensor_value_info(name, kind, value.shape))
    onnx.save(whole, tmp_path / "detector.onnx")
    given = str(tmp_path / "detector.onnx"), [LAYER], Preprocess(SIZE)
    extractor = OnnxExtractor(*given, threads=1, postprocess=EfficientNms())
    path = tmp_path / "model.onnx"
    assert export_model(model, path, ExportOptions(merged=True, boxes=True), extractor).passed
    found, scores, masks, _ = onnx_session(path).run(None, {"images": np.zeros((1, 3, *SIZE), np.float32)})
    assert found.tolist() == boxes[0, [1, 0]].tolist()
    np.testing.assert_allclose(scores, [0.9, 0.6])
    assert masks.shape == (2, *SIZE)
    assert (masks >= 0.5).sum(axis=0).max() == 1  # the boxes overlap, the masks do not


def test_boxes_need_the_detector_inside_and_an_adapter(model, tmp_path):
    with pytest.raises(UserError, match="add merged=true"):
        ExportOptions(boxes=True)
    plain = OnnxExtractor(model.config["extractor"]["onnx_path"], [LAYER], Preprocess(SIZE), threads=1)
    with pytest.raises(UserError, match=r"extractor\.postprocess is not set"):
        export_model(model, tmp_path / "model.onnx", ExportOptions(merged=True, boxes=True), plain)
