"""The outputs of an exported file by choice, against plain numpy."""

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers import make_onnx, onnx_session, user_error
from helpers.bilinear import paste
from tiny_run import tiny_decoder, tiny_extractor, trained_model, with_random_weights

from roiseg.inference.decision import ImageRois, Votes
from roiseg.inference.model import OnnxModel
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.predictor import Predictor
from roiseg.onnx_export.check import time_file
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.outputs import wanted_output

pytestmark = pytest.mark.filterwarnings("ignore")

ALL = ("masks", "roi_masks", "labels", "mask_scores")
VOTES = Votes(exclusive=True, weight=0.5, bias=0.3)
PIXELS = 2  # of dilation


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(make_onnx(tmp_path_factory.mktemp("detector") / "tiny.onnx"))


@pytest.fixture(scope="module")
def model(extractor):
    torch.manual_seed(0)
    decoder = with_random_weights(tiny_decoder(extractor), 0.2)
    return replace(trained_model(decoder, extractor), decision=VOTES)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """All outputs, of dilated masks that do not overlap."""
    path = tmp_path_factory.mktemp("outputs") / "all.onnx"
    assert export_model(model, path, ExportOptions(outputs=ALL, dilate=PIXELS)).passed
    return path


def run(path, model, rois):
    features = torch.randn(1, *model.shapes[0], generator=torch.Generator().manual_seed(1))
    found = onnx_session(path).run(ALL, {model.layers[0]: features.numpy(), "rois": rois})
    return features, dict(zip(ALL, found, strict=True))


def test_each_output_is_what_its_text_says(path, model):
    rois = np.array([[0.1, 0.1, 0.7, 0.8], [0.3, 0.2, 0.9, 0.9], [0.5, 0, 1.1, 0.6]], np.float32)
    features, found = run(path, model, rois)
    boxes = torch.from_numpy(rois) * 64
    with torch.no_grad():
        logits = model.decoder([features], torch.cat([torch.zeros(3, 1), boxes], 1)).logits
    shares = logits.softmax(1)
    decided = VOTES.of_image(ImageRois(shares, boxes, boxes, (64, 64))).numpy()
    np.testing.assert_allclose(found["roi_masks"][:, 1], decided, atol=1e-4)
    np.testing.assert_allclose(found["roi_masks"].sum(axis=1), 1, atol=1e-5)
    ratio = shares[:, 2] / (shares[:, 0] + shares[:, 2])
    np.testing.assert_allclose(found["roi_masks"][:, 2], ratio.numpy() * (1 - decided), atol=1e-4)

    side = np.ones((2 * PIXELS + 1,) * 2)
    pairs = zip(decided, boxes.numpy(), strict=True)
    masks = np.array([cv2.dilate(paste(*pair, (64, 64)).astype(np.float32), side) for pair in pairs])
    largest, second = np.sort(masks, axis=0)[[-1, -2]]
    owner = masks.argmax(axis=0)
    clear = largest - second > 1e-3
    expected = masks * (owner == np.arange(3)[:, None, None])
    np.testing.assert_allclose(found["masks"][:, clear], expected[:, clear], atol=1e-4)
    labels = np.where(largest >= 0.5, owner + 1, 0)
    clear &= abs(largest - 0.5) > 1e-3
    assert found["labels"].dtype == np.int32
    assert (found["labels"] == labels)[clear].all() and clear.mean() > 0.5
    assert {0, 1, 2, 3} == {*labels[clear]}
    assert found["mask_scores"].shape == (3,)


def test_no_roi_gives_empty_outputs_and_no_label(path, model):
    _, found = run(path, model, np.zeros((0, 4), np.float32))
    shapes = {name: values.shape for name, values in found.items()}
    assert shapes == {
        "masks": (0, 64, 64),
        "roi_masks": (0, 3, 14, 14),
        "labels": (64, 64),
        "mask_scores": (0,),
    }
    assert not found["labels"].any()


@pytest.mark.slow
def test_small_outputs_need_no_canvas_and_predict_says_what_is_missing(model, extractor, tmp_path):
    path = tmp_path / "small.onnx"
    export_model(model, path, ExportOptions(outputs=["roi_masks", "mask_scores"]))
    file = OnnxFile(path)
    assert file.outputs == ["roi_masks", "mask_scores"]
    assert time_file(file, 3, 0).rois == 3
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph.value_info
    shapes = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in inferred]
    assert ["num_rois", 3, 14, 14] in shapes
    assert ["num_rois", 64, 64] not in shapes
    told = f"{path} does not give masks: export it with outputs=[masks,mask_scores]"
    assert user_error(OnnxModel, file, None) == told
    assert user_error(Predictor.from_onnx, path, extractor.onnx_path) == told


@pytest.mark.parametrize("name", ALL)
def test_the_parity_check_covers_each_output(name, path, model, monkeypatch, tmp_path):
    """The file of another decoder, of which only this output is left."""
    wrong = onnx.load(path)
    kept = [output for output in wrong.graph.output if output.name == name]
    del wrong.graph.output[:]
    wrong.graph.output.extend(kept)
    monkeypatch.setattr("roiseg.onnx_export.export.export_decoder", lambda *_: wrong)
    other = replace(model, decision=replace(VOTES, bias=-0.3))
    options = ExportOptions(outputs=[name], dilate=PIXELS if name in ("masks", "labels") else 0)
    assert "differs from PyTorch" in user_error(export_model, other, tmp_path / "wrong.onnx", options)
    assert export_model(model, tmp_path / "right.onnx", options).passed


def test_near_ties_may_fall_either_way_and_nothing_else():
    masks = np.array([[[0.7, 0.2]], [[0.6999, 0.4999]]], np.float32)
    expected = {"masks": masks}

    def off(name, found, exclusive=True):
        return np.abs(found - wanted_output(name, found, expected, exclusive)).max()

    for labels in ([1, 0], [2, 2]):
        assert off("labels", np.array([labels])) < 2e-4
    assert off("labels", np.array([[1, 1]])) == pytest.approx(0.3)
    assert off("labels", np.array([[0, 0]])) == pytest.approx(0.2)
    right = np.array([[[0.7, 0]], [[0, 0.4999]]], np.float32)
    assert off("masks", right) < 1e-6
    assert off("masks", masks, exclusive=False) == 0
    assert np.isnan(off("masks", masks))


@pytest.mark.parametrize(
    ("outputs", "dilate", "told"),
    [
        ([], 0, "outputs is [], it must be some of masks, roi_masks, labels, mask_scores"),
        (["mask"], 0, "outputs is [mask], it must be some of"),
        (["masks", "masks"], 0, "outputs is [masks, masks], it must be some of"),
        (["roi_masks"], 2, "dilate is 2: give 0 or more pixels, and masks or labels in outputs"),
        (["masks"], -1, "dilate is -1: give 0 or more"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(outputs, dilate, told):
    assert told in user_error(lambda: ExportOptions(outputs=outputs, dilate=dilate))
