"""Exported files of decoders that read more than features: pixel size (FiLM) and image (detail branch)."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import run_onnx
from tiny_run import (
    LAYER,
    tiny_config,
    tiny_data,
    tiny_decoder,
    tiny_extractor,
    trained_model,
    with_random_weights,
)

from roiseg.decoders.base import Context, target_probability
from roiseg.geometry.paste import paste_masks
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import save_onnx
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.verify import random_rois

pytestmark = [pytest.mark.slow_except, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(onnx_file):
    """A decoder with FiLM and a detail branch."""
    extractor = tiny_extractor(onnx_file)
    torch.manual_seed(0)
    options = {"film": 1.5, "detail": 4}
    decoder = with_random_weights(tiny_decoder(extractor, **options))
    return trained_model(decoder, extractor, tiny_config(onnx_file, **options))


@pytest.fixture(scope="module")
def samples(model, coco_set, onnx_file):
    return tiny_data(coco_set, tiny_extractor(onnx_file), model.decoder).samples("val", [0, 1, 2])


def export(model, samples, onnx_file, folder, options):
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


def test_the_file_takes_and_describes_what_the_decoder_needs(exported):
    kind, session, path, check = exported
    inputs = {given.name: given.shape for given in session.get_inputs()}
    features = {"images": [1, 3, 64, 64]} if kind == "merged" else {LAYER: [1, 20, 16, 16]}
    image = {} if kind == "merged" else {"image": [1, 3, 64, 64]}
    assert inputs == {**features, "rois": ["num_rois", 4], **image, "pixel_size": [1]}
    assert {given.type for given in session.get_inputs()} == {"tensor(float)"}
    assert [output.name for output in session.get_outputs()] == ["masks"]
    stored = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    picture = json.loads(stored["image_input"]) or "image"
    assert "[1, 3, H, W]" in stored[picture]
    assert ("image" in stored) == (picture == "image")
    assert "micrometres" in stored["pixel_size"]
    assert json.loads(stored["merged"]) == (kind == "merged")
    assert check.passed
    assert max(check.random, check.real) <= check.tolerance == (2e-2 if kind == "merged" else 1e-4)


@pytest.mark.parametrize(("count", "pixel_size"), [(0, 1.5), (1, 0.3), (5, 12.0)])
def test_masks_are_those_of_pytorch(exported, model, onnx_file, count, pixel_size):
    picture, rois = pictures(count), random_rois(count, seed=count)
    masks = run(exported, onnx_file, picture, rois, pixel_size)
    expected = by_pytorch(model, onnx_file, picture, rois, pixel_size)
    np.testing.assert_allclose(masks, expected, atol=2e-2 if exported[0] == "merged" else 1e-4)


def test_a_detector_whose_own_input_is_called_image_can_be_merged(alone, model, onnx_file, tmp_path):
    """The decoder's input of that name is joined to it."""
    detector = onnx.load(str(onnx_file))
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
    feed = {"image": picture, "rois": rois, "pixel_size": np.float32([2])}
    expected = by_pytorch(model, onnx_file, picture, rois, 2.0)
    np.testing.assert_allclose(run.run(["masks"], feed)[0], expected, atol=1e-4)
