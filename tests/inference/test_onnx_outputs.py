"""The outputs of an exported file by choice, against plain numpy."""

import json
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers import make_onnx, onnx_session, user_error
from helpers.bilinear import paste
from helpers.image_decoder import TinyImageDecoder
from tiny_run import tiny_decoder, tiny_extractor, trained_model, with_random_weights

from roiseg.inference.decision import ImageRois, Votes
from roiseg.inference.model import OnnxModel, TorchModel
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


@pytest.fixture(scope="module")
def batch_path(model, tmp_path_factory):
    """The same for several images."""
    path = tmp_path_factory.mktemp("outputs") / "batch.onnx"
    assert export_model(model, path, ExportOptions(outputs=ALL, dilate=PIXELS, batch=True)).passed
    return path


@pytest.mark.slow
@pytest.mark.parametrize("owner", [[2, 0, 2, 0, 2, 0], [1], []], ids=["shuffled", "one", "none"])
def test_a_batch_gives_what_each_image_alone_gives(owner, path, batch_path, model):
    """Three images, of which one or more have no ROI; those of an image overlap, vote and hide each other."""
    features = torch.randn(3, *model.shapes[0], generator=torch.Generator().manual_seed(1)).numpy()
    owner = np.array(owner, np.int64)
    rois = np.float32([
        [0.1, 0.1, 0.7, 0.8], [0.2, 0.1, 0.8, 0.9], [0.3, 0.2, 0.9, 0.9], [0.1, 0.3, 0.6, 0.7],
        [0.5, 0, 1.1, 0.6], [0.4, 0.4, 1, 1],
    ])[: len(owner)]  # fmt: skip
    given = {model.layers[0]: features, "rois": np.column_stack([owner, rois]).astype(np.float32)}
    found = dict(zip(ALL, onnx_session(batch_path).run(ALL, given), strict=True))
    assert found["labels"].shape == (3, 64, 64) and found["masks"].shape == (len(owner), 64, 64)
    for image in range(3):
        own = np.flatnonzero(owner == image)
        given = {model.layers[0]: features[image : image + 1], "rois": rois[own]}
        alone = dict(zip(ALL, onnx_session(path).run(ALL, given), strict=True))
        for name in ("masks", "roi_masks", "mask_scores"):
            np.testing.assert_allclose(found[name][own], alone[name], atol=1e-5)
        rows = np.array([0, *(own + 1)])  # of `rois`, by the label of the image alone
        assert (found["labels"][image] == rows[alone["labels"]]).mean() > 0.999
        assert bool(alone["labels"].any()) == bool(len(own))


@pytest.mark.slow
def test_a_batch_with_the_detector_inside(tmp_path, model):
    """A free batch of the detector is used; a fixed one is refused."""
    fixed = tiny_extractor(make_onnx(tmp_path / "fixed.onnx"))
    free = tiny_extractor(make_onnx(tmp_path / "free.onnx", batch="N"))
    options, path = ExportOptions(merged=True, batch=True), tmp_path / "masks.onnx"
    told = user_error(export_model, model, path, options, fixed)
    assert f"{fixed.onnx_path} has a fixed batch of 1: export the detector with a dynamic batch" in told
    assert export_model(model, path, options, free).passed
    facts = json.loads(path.with_name("masks.onnx.json").read_text())
    image, rois = facts["inputs"]
    assert isinstance(image["shape"][0], str) and image["content"].startswith("float32 [B, 3, H, W]")
    assert rois["shape"] == ["num_rois", 5] and "index of the image" in rois["content"]
    assert "layout [B, 3, 64, 64]" in str(facts["preprocess"]["steps"])
    assert time_file(OnnxFile(path), 3, 0).rois == 3
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    predicted = []
    for predictor in (Predictor.from_onnx(path), Predictor(TorchModel(model, free, "cpu"))):
        predictor.set_image(image)
        predicted.append(predictor.predict([[5, 5, 50, 60], [10, 8, 60, 50]]).masks())
    assert (predicted[0] != predicted[1]).mean() < 1e-2


@pytest.mark.slow
def test_a_file_of_any_size(tmp_path, model):
    """Another size in one run with the detector, against PyTorch; a detector of one size is refused."""
    fixed = tiny_extractor(make_onnx(tmp_path / "fixed.onnx", batch="N"))
    free = tiny_extractor(make_onnx(tmp_path / "free.onnx", size=("h", "w"), batch="N"))
    options = ExportOptions(merged=True, batch=True, free_size=True, outputs=["roi_masks", "labels"])
    path = tmp_path / "masks.onnx"
    told = user_error(export_model, model, path, options, fixed)
    assert f"free_size=true: {fixed.onnx_path} does not take 128x192" in told
    assert export_model(model, path, options, free).passed
    facts = json.loads(path.with_name("masks.onnx.json").read_text())
    assert facts["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert facts["outputs"][1]["shape"] == ["batch", "height", "width"]
    assert "it also takes other multiples of 4" in str(facts["preprocess"]["steps"])
    assert time_file(OnnxFile(path), 3, 0).rois == 3

    image = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 96)).astype(np.float32)
    rois = np.array([[0.1, 0.1, 0.7, 0.8], [0.3, 0.2, 0.9, 0.9]], np.float32)
    boxes = torch.from_numpy(rois) * torch.tensor([96, 32, 96, 32])
    features = free.resized((32, 96)).run(torch.from_numpy(image))
    with torch.no_grad():
        logits = model.decoder(features, torch.cat([torch.zeros(2, 1), boxes], 1)).logits
    decided = VOTES.of_image(ImageRois(logits.softmax(1), boxes, boxes, (32, 96))).numpy()
    given = {"images": image, "rois": np.insert(rois, 0, 0, axis=1)}
    found, labels = onnx_session(path).run(["roi_masks", "labels"], given)
    np.testing.assert_allclose(found[:, 1], decided, atol=1e-4)
    masks = np.array([paste(*one, (32, 96)) for one in zip(decided, boxes.numpy(), strict=True)])
    clear = (abs(masks - 0.5).min(axis=0) > 1e-3) & (abs(masks[0] - masks[1]) > 1e-3)
    wanted = np.where(masks.max(axis=0) >= 0.5, masks.argmax(axis=0) + 1, 0)
    assert (labels[0] == wanted)[clear].all()


def test_a_decoder_of_whole_maps_has_one_size(extractor, tmp_path):
    decoder = TinyImageDecoder(extractor.channels, extractor.strides, (64, 64))
    told = user_error(
        export_model, trained_model(decoder, extractor), tmp_path / "a.onnx", ExportOptions(free_size=True)
    )
    assert "has maps of a fixed size: leave it out, or train one of the ROI frame" in told


@pytest.mark.parametrize("option", ["batch", "free_size"])
def test_a_file_that_finds_boxes_takes_one_image_of_one_size(option):
    told = user_error(lambda: ExportOptions(merged=True, boxes=True, **{option: True}))
    assert told == f"boxes=true finds the boxes of one image of one size: leave out {option}=true"


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
    assert off("labels", np.array([[3, 0]])) == off("labels", np.array([[-1, 0]])) == np.inf
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
