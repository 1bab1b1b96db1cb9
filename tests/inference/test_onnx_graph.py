"""Exported files against PyTorch. Exports cost seconds each, so few are made and shared."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from faults.bad_detectors import external, local_functions
from faults.bad_detectors import model as changed
from helpers import ROOT, make_onnx, run_onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tiny_run import (
    LAYER,
    SECOND_LAYER,
    tiny_config,
    tiny_data,
    tiny_decoder,
    tiny_extractor,
    trained_model,
    with_random_weights,
)

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.decoders.base import target_probability
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.onnx_export import merge
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import save_onnx, simplify_graph
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.verify import CheckInput, OnnxCheck, largest_difference, random_rois

pytestmark = [pytest.mark.slow_except, pytest.mark.filterwarnings("ignore")]

WIDE = (64, 96)  # (H, W) of the two-layer model's input
LAYERS = (LAYER, SECOND_LAYER)


def train_a_little(decoder):
    """Weights as after training, with predictions well away from 1/3."""
    with_random_weights(decoder).predict.weight.data *= 5
    return decoder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with a 16x12 grid on two layers of an image that is wider than high."""
    torch.manual_seed(0)
    detector = make_onnx(tmp_path_factory.mktemp("wide") / "wide.onnx", size=WIDE)
    extractor = OnnxExtractor(str(detector), list(LAYERS), Preprocess(WIDE), threads=1)
    decoder = RoiAlignDecoder(
        extractor.channels, extractor.strides, WIDE, roi_size=(16, 12), output_size=(32, 24), mid_channels=48,
        depth=2,
    )  # fmt: skip
    config = tiny_config(detector, LAYERS)
    config["extractor"]["preprocess"]["image_size"] = list(WIDE)
    return trained_model(train_a_little(decoder), extractor, config, epoch=7)


@pytest.fixture(scope="module")
def square(onnx_file):
    """A model on one layer of the tiny detector, 2 classes."""
    torch.manual_seed(1)
    extractor = tiny_extractor(onnx_file)
    decoder = train_a_little(tiny_decoder(extractor, num_classes=2))
    return trained_model(decoder, extractor, tiny_config(onnx_file, num_classes=2))


@pytest.fixture(scope="module")
def alone(wide, tmp_path_factory):
    """(file, check) of the decoder alone."""
    path = tmp_path_factory.mktemp("alone") / "model.onnx"
    return path, export_model(wide, path, ExportOptions())


@pytest.fixture(scope="module")
def half(wide, tmp_path_factory):
    """(file, check) of the decoder alone in fp16."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    return path, export_model(wide, path, ExportOptions(half=True))


@pytest.fixture(scope="module")
def merged(square, onnx_file, coco_set, tmp_path_factory):
    """(file, check) of extractor and decoder in one, simplified, checked on real images too."""
    path = tmp_path_factory.mktemp("merged") / "model.onnx"
    extractor = tiny_extractor(onnx_file)
    samples = tiny_data(coco_set, extractor, square.decoder).samples("val", [0, 1, 2])
    return path, export_model(square, path, ExportOptions(merged=True, simplify=True), extractor, samples)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def features_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *shape, generator=generator) for shape in model.shapes]


def feed(model, features, rois):
    return {**{n: f.numpy() for n, f in zip(model.layers, features, strict=True)}, "rois": rois}


def expected_masks(model, features, rois):
    """Masks by the decoder and a paste of its own: every pixel looks up where in the ROI it falls."""
    height, width = model.image_size
    boxes = rois.astype(np.float64) * [width, height, width, height]
    indexed = torch.from_numpy(np.insert(boxes, 0, 0, axis=1).astype(np.float32))
    with torch.no_grad():
        maps = target_probability(model.decoder(features, indexed).logits).double().numpy()
    masks = np.zeros((len(rois), height, width))
    for mask, grid, (x1, y1, x2, y2) in zip(masks, maps, boxes, strict=True):
        h, w = grid.shape
        for y in range(height):
            for x in range(width):
                if x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2:
                    i = min(max((y + 0.5 - y1) / (y2 - y1) * h - 0.5, 0), h - 1)
                    j = min(max((x + 0.5 - x1) / (x2 - x1) * w - 0.5, 0), w - 1)
                    i0, j0 = int(i), int(j)
                    i1, j1 = min(i0 + 1, h - 1), min(j0 + 1, w - 1)
                    a, b = i - i0, j - j0
                    mask[y, x] = (1 - a) * ((1 - b) * grid[i0, j0] + b * grid[i0, j1]) + a * (
                        (1 - b) * grid[i1, j0] + b * grid[i1, j1]
                    )
    return masks


# --- the decoder alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 0, 1, 7])
def test_any_number_of_rois_gives_the_masks_of_pytorch(count, alone, wide):
    odd = [[-0.2, -0.3, 0.25, 0.5], [0.9, 0.9, 1.4, 1.2], [-1, -1, 2, 2]]  # over the border
    odd += [[2, 2, 3, 3], [0.3, 0.2, 0.3, 0.8], [0.6, 0.7, 0.2, 0.1]]  # outside, without width, inverted
    features, rois = features_of(wide, seed=count), random_rois(count, seed=count)
    rois = np.concatenate([rois, np.array(odd, np.float32)])
    rois = rois if count else rois[:0]
    (masks,) = session(alone[0]).run(["masks"], feed(wide, features, rois))
    assert masks.shape == (len(rois), *WIDE)
    assert masks.dtype == np.float32
    assert count == 0 or 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(masks, expected_masks(wide, features, rois), atol=1e-4)


def test_inputs_and_outputs_have_the_names_and_shapes_promised(alone, wide):
    run = session(alone[0])
    inputs = {given.name: given.shape for given in run.get_inputs()}
    assert list(inputs) == [*wide.layers, "rois"]
    assert inputs[LAYER] == [1, 20, 16, 24]
    assert inputs[SECOND_LAYER] == [1, 32, 8, 12]
    assert isinstance(inputs["rois"][0], str)
    assert inputs["rois"][1] == 4
    (masks,) = run.get_outputs()
    assert masks.name == "masks"
    assert masks.shape[1:] == list(WIDE)
    assert {given.type for given in run.get_inputs()} == {"tensor(float)"}


@pytest.mark.parametrize("file", ["alone", "half", "merged"])
def test_a_file_is_portable_and_says_what_a_program_must_know(file, request, wide, square):
    """Opset 18 without GridSample, no weights beside it, no path of the machine that wrote it."""
    path, _ = request.getfixturevalue(file)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions.get("", versions.get("ai.onnx")) == 18
    types = {node.op_type for node in model.graph.node} | {
        node.op_type for function in model.functions for node in function.node
    }
    assert not types & {"GridSample", "RoiAlign", "ATen"}
    assert not [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert [p.name for p in path.parent.glob("[!.]*")] == [path.name]
    for text in (str(ROOT).encode(), b"site-packages", b"stack_trace"):
        assert text not in path.read_bytes()
    trained = square if file == "merged" else wide
    stored = {p.key: p.value for p in model.metadata_props}
    assert stored["producer"] == "roiseg"
    assert stored["checkpoint"] == trained.path.name
    assert stored["epoch"] == str(trained.epoch)
    assert json.loads(stored["image_size"]) == list(trained.image_size)
    assert json.loads(stored["layers"]) == list(trained.layers)
    assert json.loads(stored["merged"]) == (file == "merged")
    assert stored["extractor_sha256"] == trained.extractor_sha256
    preprocess = json.loads(stored["preprocess"])
    assert preprocess["color"] == "bgr"
    assert preprocess["image_size"] == list(trained.image_size)
    assert "0..1" in stored["rois"]
    assert "[N, H, W]" in stored["masks"]


# --- half precision -------------------------------------------------------------------------------


@pytest.mark.slow
def test_fp16_file_is_near_pytorch_and_smaller(alone, half, wide):
    features, rois = features_of(wide, seed=5), random_rois(7, seed=5)
    (masks,) = session(half[0]).run(["masks"], feed(wide, features, rois))
    np.testing.assert_allclose(masks, expected_masks(wide, features, rois), atol=2e-2)
    assert half[0].stat().st_size < 0.6 * alone[0].stat().st_size
    assert half[1].tolerance == 2e-2
    assert half[1].random > 1e-6  # it really is in half precision
    assert all(p.dtype == torch.float32 for p in wide.decoder.parameters())  # the model is as it was
    assert any(isinstance(m, torch.nn.GroupNorm) for m in wide.decoder.modules())
    for count in (0, 1):
        (masks,) = session(half[0]).run(["masks"], feed(wide, features, random_rois(count)))
        assert masks.shape == (count, *WIDE)


@pytest.mark.parametrize("scale", [0, 1, 2000])
def test_fp16_file_stands_large_features_where_all_arithmetic_is_fp16(scale, half, wide):
    """GroupNorm squares what it gets, and 256 squared is more than fp16 holds.

    ONNX Runtime computes in float32 on CPUs and would not show it; onnx's own evaluator does as it is told.
    """
    features, rois = [f * scale for f in features_of(wide)], random_rois(3)
    (masks,) = ReferenceEvaluator(str(half[0])).run(["masks"], feed(wide, features, rois))
    np.testing.assert_allclose(masks, expected_masks(wide, features, rois), atol=2e-2)


# --- extractor and decoder in one -----------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 4])
def test_merged_file_equals_the_extractor_followed_by_the_decoder(count, merged, square, onnx_file):
    picture = np.random.default_rng(count).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)
    rois = random_rois(count, seed=count)
    (masks,) = session(merged[0]).run(["masks"], {"images": picture, "rois": rois})
    features = [torch.from_numpy(run_onnx(onnx_file, {"images": picture}, [LAYER])[0])]
    np.testing.assert_allclose(masks, expected_masks(square, features, rois), atol=1e-4)


def test_merged_file_takes_the_image_and_rois_and_leaves_out_what_lies_behind_the_layer(merged):
    path, check = merged
    run = session(path)
    assert [given.name for given in run.get_inputs()] == ["images", "rois"]
    assert [output.name for output in run.get_outputs()] == ["masks"]
    names = {name for node in onnx.load(str(path)).graph.node for name in node.output}
    assert not [name for name in names if "model.7" in name or "model.5" in name]
    assert 0 <= check.real <= 1e-4  # real images are part of the check
    assert check.passed


def test_simplifying_removes_redundant_nodes():
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    assert [node.op_type for node in simplify_graph(model).graph.node] == ["Relu"]


def test_what_cannot_be_exported_is_a_user_error(square, tmp_path):
    with pytest.raises(UserError, match="onnx_path"):
        export_model(square, tmp_path / "model.onnx", ExportOptions(merged=True))
    assert not list(tmp_path.glob("[!.]*"))
    for opset in (13, 99):
        with pytest.raises(UserError, match=f"opset is {opset}, it must be from 16 to"):
            ExportOptions(opset=opset)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-4),
        ({"batch": "N"}, 1e-4),
        ({"dtype": "float16"}, 2e-2),
        ({"spoil": external("weights.bin", "weights.bin")}, 1e-4),
        ({"spoil": changed(local_functions).spoil}, 1e-4),
    ],
    ids=["static", "free batch", "fp16", "external weights", "local functions"],
)
def test_extractors_of_every_kind_can_be_merged(options, tolerance, alone, wide, tmp_path):
    """Two layers; the decoder's file of `alone` is used again."""
    sound = {key: value for key, value in options.items() if key != "spoil"}
    detector = make_onnx(tmp_path / "detector.onnx", size=WIDE, **sound)
    options.get("spoil", lambda path: None)(detector)
    extractor = OnnxExtractor(str(detector), list(LAYERS), Preprocess(WIDE), threads=1)
    model = merge_with_extractor(onnx.load(str(alone[0])), str(detector), LAYERS)
    save_onnx(model, tmp_path / "merged.onnx", {})
    images = torch.randint(
        0, 256, (1, *WIDE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    rois = random_rois(3)
    given = CheckInput({"images": extractor.preprocess(images).numpy()}, extractor(images), rois)
    assert largest_difference(tmp_path / "merged.onnx", wide.decoder, WIDE, [given]) < tolerance
    picture = given.onnx_inputs["images"].astype(options.get("dtype", "float32"))
    (masks,) = session(tmp_path / "merged.onnx").run(["masks"], {"images": picture, "rois": rois})
    np.testing.assert_allclose(masks, expected_masks(wide, extractor(images), rois), atol=tolerance)


def test_a_merged_file_that_would_be_too_large_is_refused_and_weights_are_not_read(
    alone, tmp_path, monkeypatch
):
    """The limit of 2 GB, lowered: external weights stay outside until they are merged."""
    detector = make_onnx(tmp_path / "detector.onnx", size=WIDE)
    external("weights.bin", "weights.bin")(detector)
    assert load_onnx(detector).ByteSize() < (tmp_path / "weights.bin").stat().st_size
    decoder = onnx.load(str(alone[0]))
    monkeypatch.setattr(merge, "MAX_BYTES", decoder.ByteSize() + detector.stat().st_size)
    with pytest.raises(UserError, match=r"detector\.onnx .*more than one ONNX file can hold.*merged=false"):
        merge_with_extractor(decoder, str(detector), LAYERS)


# --- the check ------------------------------------------------------------------------------------


def test_a_check_passes_within_tolerance_and_reports_its_numbers(alone):
    check = alone[1]
    assert 0 <= check.random <= 1e-4
    assert check.summary() == {"tolerance": 1e-4, "random": check.random, "real": None, "passed": True}


@pytest.mark.parametrize(
    ("random", "real", "passed"),
    [
        (0.0, None, True), (1e-4, 1e-4, True), (2e-4, 0.0, False), (0.0, 2e-4, False),
        (math.inf, None, False), (math.nan, None, False), (0.0, math.inf, False),
    ],
)  # fmt: skip
def test_a_check_passes_only_within_tolerance(random, real, passed):
    assert OnnxCheck(1e-4, random, real).passed is passed


def check_inputs(model, count=3):
    features, rois = features_of(model), random_rois(count)
    arrays = feed(model, features, rois)
    arrays.pop("rois")
    return [CheckInput(arrays, features, rois)]


def test_the_check_sees_a_weight_that_differs_or_is_nan_and_masks_of_another_size(alone, wide):
    other = copy.deepcopy(wide.decoder)
    assert largest_difference(alone[0], other, WIDE, check_inputs(wide)) <= 1e-4
    other.predict.bias.data[1] += 0.01
    assert 1e-4 < largest_difference(alone[0], other, WIDE, check_inputs(wide)) < 0.01
    other.predict.bias.data[1] = math.nan
    assert largest_difference(alone[0], other, WIDE, check_inputs(wide)) == math.inf
    with pytest.raises(UserError, match="shape"):
        largest_difference(alone[0], wide.decoder, (32, 48), check_inputs(wide))


class ExportsWrongly(RoiAlignDecoder):
    """Another function while it is exported than when it runs."""

    def decode(self, features, rois, context):
        output = super().decode(features, rois, context)
        if torch.compiler.is_exporting():
            output = replace(output, logits=output.logits * 1.01)
        return output


def test_a_wrong_export_is_a_user_error_and_leaves_no_file(square, tmp_path):
    torch.manual_seed(0)
    decoder = ExportsWrongly(
        [20], [4], [64, 64], roi_size=(4, 4), output_size=(4, 4), mid_channels=4, depth=0
    )
    model = replace(square, decoder=train_a_little(decoder))
    path = tmp_path / "model.onnx"
    with atomic_path(path) as temporary:  # recorded: it may be replaced
        temporary.write_bytes(b"an older export")
    with pytest.raises(UserError, match="differs from PyTorch") as error:
        export_model(model, path, ExportOptions())
    assert str(model.path) in str(error.value)
    assert path.read_bytes() == b"an older export"
    assert list(tmp_path.glob("[!.]*")) == [path]
