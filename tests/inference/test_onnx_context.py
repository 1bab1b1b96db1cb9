"""Exported files of decoders that read more than features: pixel size (FiLM) and image (detail branch)."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import make_onnx, run_onnx, user_error
from tiny_run import (
    LAYER,
    one_thread,
    tiny_config,
    tiny_data,
    tiny_decoder,
    tiny_extractor,
    tiny_module,
    tiny_trainer,
)

from roiseg.callbacks.checkpoints import EpochCheckpoint
from roiseg.decoders.base import Context, target_probability
from roiseg.geometry.paste import paste_masks
from roiseg.inference.checkpoint import checkpoint_metadata, load_model, newest_checkpoint
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import save_onnx
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.verify import random_rois

pytestmark = [pytest.mark.slow_except, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model(coco_set, onnx_file, tmp_path_factory):
    """A checkpoint of a decoder with FiLM and a detail branch, trained and loaded again."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    options = {"film": 1.5, "detail": 4}
    decoder = tiny_decoder(extractor, **options)
    module = tiny_module(decoder, checkpoint_metadata(tiny_config(onnx_file, **options), extractor))
    data = tiny_data(coco_set, extractor, decoder)
    with one_thread():
        tiny_trainer(folder.parent, [EpochCheckpoint(folder, [64, 64])], max_epochs=10).fit(
            module, datamodule=data
        )
    loaded = load_model(newest_checkpoint(folder))
    trained = module.decoder.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in loaded.decoder.state_dict().items())
    return loaded


@pytest.fixture(scope="module")
def samples(model, coco_set, onnx_file):
    return tiny_data(coco_set, tiny_extractor(onnx_file), model.decoder).samples("val", [0, 1, 2])


def export(model, samples, onnx_file, folder, options):
    with one_thread():
        check = export_model(model, folder / "model.onnx", options, tiny_extractor(onnx_file), samples)
    return folder / "model.onnx", check


@pytest.fixture(scope="module")
def alone(model, samples, onnx_file, tmp_path_factory):
    """(file, check) of the decoder alone."""
    return export(model, samples, onnx_file, tmp_path_factory.mktemp("alone"), ExportOptions())


@pytest.fixture(scope="module")
def merged(model, samples, onnx_file, tmp_path_factory):
    """(file, check) of extractor and decoder in one, the decoder in fp16."""
    options = ExportOptions(merged=True, half=True)
    return export(model, samples, onnx_file, tmp_path_factory.mktemp("merged"), options)


@pytest.fixture(params=["alone", "merged"])
def exported(request):
    """(kind, session, file, check) of each kind of file."""
    path, check = request.getfixturevalue(request.param)
    return request.param, session(path), path, check


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def pictures(seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)


def run(exported, onnx_file, picture, rois, pixel_size):
    kind, session, _, _ = exported
    if kind == "merged":
        feed = {"images": picture}
    else:
        feed = {LAYER: run_onnx(onnx_file, {"images": picture}, [LAYER])[0], "image": picture}
    return session.run(["masks"], {**feed, "rois": rois, "pixel_size": np.float32([pixel_size])})[0]


def by_pytorch(model, onnx_file, picture, rois, pixel_size):
    features = [torch.from_numpy(run_onnx(onnx_file, {"images": picture}, [LAYER])[0])]
    boxes = torch.from_numpy(rois * np.float32(64))
    context = Context(image=torch.from_numpy(picture), pixel_size=torch.tensor([pixel_size]))
    with torch.no_grad():
        logits = model.decoder(features, torch.cat([torch.zeros(len(boxes), 1), boxes], 1), context).logits
        return paste_masks(target_probability(logits), boxes, (64, 64)).numpy()


def test_inputs_are_those_the_decoder_needs(exported):
    kind, session, _, _ = exported
    inputs = {given.name: given.shape for given in session.get_inputs()}
    features = {"images": [1, 3, 64, 64]} if kind == "merged" else {LAYER: [1, 20, 16, 16]}
    image = {} if kind == "merged" else {"image": [1, 3, 64, 64]}
    assert inputs == {**features, "rois": ["num_rois", 4], **image, "pixel_size": [1]}
    assert {given.type for given in session.get_inputs()} == {"tensor(float)"}
    assert [output.name for output in session.get_outputs()] == ["masks"]


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("pixel_size", [0.3, 1.5, 12.0])
def test_masks_are_those_of_pytorch(exported, model, onnx_file, count, pixel_size):
    picture, rois = pictures(count), random_rois(count, seed=count)
    masks = run(exported, onnx_file, picture, rois, pixel_size)
    expected = by_pytorch(model, onnx_file, picture, rois, pixel_size)
    np.testing.assert_allclose(masks, expected, atol=2e-2 if exported[0] == "merged" else 1e-4)


def test_masks_depend_on_pixel_size_and_picture(exported, onnx_file):
    """Of the image beside the features only where the file takes features."""
    rois = random_rois(3)
    usual = run(exported, onnx_file, pictures(), rois, 1.5)
    assert np.abs(run(exported, onnx_file, pictures(), rois, 9.0) - usual).max() > 1e-3
    assert np.abs(run(exported, onnx_file, pictures(1), rois, 1.5) - usual).max() > 1e-3
    kind, session, _, _ = exported
    if kind != "merged":
        features = run_onnx(onnx_file, {"images": pictures()}, [LAYER])[0]
        feed = {LAYER: features, "rois": rois, "pixel_size": np.float32([1.5]), "image": pictures(1)}
        assert np.abs(session.run(["masks"], feed)[0] - usual).max() > 1e-4


def test_the_check_compares_random_and_real_input(exported):
    check = exported[3]
    assert check.passed
    assert check.real is not None
    assert max(check.random, check.real) <= check.tolerance
    assert check.tolerance == (2e-2 if exported[0] == "merged" else 1e-4)


def test_the_metadata_says_what_the_extra_inputs_are(exported):
    stored = {p.key: p.value for p in onnx.load(str(exported[2])).metadata_props}
    picture = json.loads(stored["image_input"]) or "image"
    assert "[1, 3, H, W]" in stored[picture]
    assert ("image" in stored) == (picture == "image")
    assert "micrometres" in stored["pixel_size"]
    assert json.loads(stored["merged"]) == (exported[0] == "merged")


@pytest.mark.parametrize(
    ("dtype", "batch", "tolerance"), [("float32", 1, 1e-4), ("float32", "N", 1e-4), ("float16", 1, 2e-2)]
)
def test_a_detector_of_any_kind_whose_own_input_is_called_image_can_be_merged(
    alone, model, onnx_file, tmp_path, dtype, batch, tolerance
):
    """The decoder's input of that name is joined to it."""
    detector = onnx.load(str(make_onnx(tmp_path / "detector.onnx", batch=batch, dtype=dtype)))
    for node in detector.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = "image" if name == "images" else name
    detector.graph.input[0].name = "image"
    onnx.save(detector, str(tmp_path / "detector.onnx"))
    joined = merge_with_extractor(onnx.load(str(alone[0])), str(tmp_path / "detector.onnx"), [LAYER])
    save_onnx(joined, tmp_path / "merged.onnx", {})
    run = session(tmp_path / "merged.onnx")
    assert sorted(given.name for given in run.get_inputs()) == ["image", "pixel_size", "rois"]
    assert [output.name for output in run.get_outputs()] == ["masks"]
    picture, rois = pictures(), random_rois(2)
    feed = {"image": picture.astype(dtype), "rois": rois, "pixel_size": np.float32([2])}
    expected = by_pytorch(model, onnx_file, picture, rois, 2.0)
    np.testing.assert_allclose(run.run(["masks"], feed)[0], expected, atol=tolerance)


@pytest.mark.parametrize("option", ["film", "detail"])
def test_weights_of_a_decoder_with_the_option_do_not_fit_one_without(model, tmp_path, option):
    content = torch.load(model.path, weights_only=True)
    content["roiseg"]["config"]["model"][option] = None
    torch.save(content, tmp_path / "other.pth")
    message = user_error(load_model, tmp_path / "other.pth")
    assert "do not fit" in message
    assert f"{option}." in message
