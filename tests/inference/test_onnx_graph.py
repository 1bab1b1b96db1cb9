"""Exported files against PyTorch. Exports cost seconds each, so few are made and shared."""

import copy
import json
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch
from faults.bad_detectors import external, local_functions, renamed
from faults.bad_detectors import model as changed
from helpers import ROOT, make_onnx, onnx_session
from helpers.bilinear import paste
from helpers.decoders import target_probability
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tiny_run import LAYER, SECOND_LAYER, tiny_config, tiny_data, trained_model, with_random_weights

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.decoders.base import Context
from roiseg.decoders.roialign import RoiAlignDecoder
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.preprocess import Preprocess
from roiseg.onnx_export import merge
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import save_onnx, simplify_graph
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.verify import CheckInput, random_rois

pytestmark = [pytest.mark.slow_except, pytest.mark.filterwarnings("ignore")]

SIZE = (64, 96)  # (H, W) of the detector's input
LAYERS = (LAYER, SECOND_LAYER)
ALL = ("masks", "roi_masks", "labels", "mask_scores")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Two layers of a detector whose input is wider than high."""
    detector = make_onnx(tmp_path_factory.mktemp("wide") / "wide.onnx", size=SIZE)
    return OnnxExtractor(str(detector), list(LAYERS), Preprocess(SIZE, color="bgr"), threads=1)


@pytest.fixture(scope="module")
def model(extractor):
    """A 16x12 grid, with FiLM and a detail branch: the decoder reads pixel size and image, too."""
    torch.manual_seed(0)
    decoder = RoiAlignDecoder(
        extractor.channels, extractor.strides, SIZE, roi_size=(16, 12), output_size=(32, 24), mid_channels=48,
        depth=2, film=1.5, detail=4,
    )  # fmt: skip
    with_random_weights(decoder).predict.weight.data *= 5  # predictions well away from 1/3
    config = tiny_config(extractor.onnx_path, LAYERS)
    config["extractor"]["preprocess"]["image_size"] = list(SIZE)
    return trained_model(decoder, extractor, config, epoch=7)


@pytest.fixture(scope="module")
def export(model, extractor, tmp_path_factory):
    """Export the model: `export(samples, option=value, ...)` returns (file, check)."""

    def run(samples=(), **options):
        path = tmp_path_factory.mktemp("exported") / "model.onnx"
        return path, export_model(model, path, ExportOptions(**options), extractor, samples)

    return run


@pytest.fixture(scope="module")
def alone(export):
    """(file, check) of the decoder alone."""
    return export()


@pytest.fixture(scope="module")
def half(export):
    """(file, check) of the decoder alone in fp16."""
    return export(half=True)


@pytest.fixture(scope="module")
def merged(export, model, extractor, coco_set):
    """(file, check) of extractor and decoder in one, simplified, checked on real images too."""
    samples = tiny_data(coco_set, extractor, model.decoder).samples("val", [0, 1, 2])
    return export(samples, merged=True, simplify=True)


def example(extractor, rois=2, pixel_size=1.0, scale=1.0, seed=0):
    """A random image, its features (times `scale`), ROIs or a number of random ones, and a pixel size."""
    size = extractor.preprocess.image_size
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    features = [scale * feature for feature in extractor.run(image)]
    rois = random_rois(rois, seed=rois) if isinstance(rois, int) else rois
    arrays = {name: feature.numpy() for name, feature in zip(LAYERS, features, strict=True)}
    arrays |= {extractor.input_name: image.numpy(), "rois": rois}
    return CheckInput(arrays, features, rois, {"image": image, "pixel_size": torch.tensor([pixel_size])})


def feed(running, given):
    """What the file of a session reads of an example."""
    arrays = {name: value.numpy() for name, value in given.context.items()} | given.onnx_inputs
    types = {one.name: np.float16 if "float16" in one.type else np.float32 for one in running.get_inputs()}
    return {name: arrays[name].astype(kind) for name, kind in types.items()}


def run(path, given):
    running = onnx_session(path)
    return running.run(["masks"], feed(running, given))[0]


def by_pytorch(model, given):
    """The masks of the decoder and a paste in plain loops."""
    size = given.context["image"].shape[2:]
    boxes = given.rois * np.float32([size[1], size[0]] * 2)
    indexed = torch.from_numpy(np.insert(boxes, 0, 0, axis=1))
    with torch.no_grad():
        logits = model.decoder(given.features, indexed, Context(**given.context)).logits
    maps = target_probability(logits).double().numpy()
    return np.array([paste(*one, size) for one in zip(maps, boxes, strict=True)]).reshape(-1, *size)


@pytest.mark.parametrize(("count", "pixel_size"), [(7, 12.0), (0, 1.5), (1, 0.3), (2, 1.0)])
def test_any_number_of_rois_gives_the_masks_of_pytorch(count, pixel_size, alone, model, extractor):
    odd = [[-0.2, -0.3, 0.25, 0.5], [0.9, 0.9, 1.4, 1.2], [-1, -1, 2, 2]]  # over the border
    odd += [[2, 2, 3, 3], [0.3, 0.2, 0.3, 0.8], [0.6, 0.7, 0.2, 0.1]]  # outside, without width, inverted
    rois = random_rois(count, seed=count)
    rois = np.concatenate([rois, np.array(odd, np.float32)]) if count else rois
    given = example(extractor, rois, pixel_size)
    masks = run(alone[0], given)
    assert masks.shape == (len(rois), *SIZE) and masks.dtype == np.float32
    assert count == 0 or 0 <= masks.min() < masks.max() <= 1
    np.testing.assert_allclose(masks, by_pytorch(model, given), atol=1e-4)


def test_merged_file_equals_extractor_and_decoder_without_what_lies_behind_them(merged, model, extractor):
    path, check = merged
    for count in (4, 0):
        given = example(extractor, count, 2.5)
        np.testing.assert_allclose(run(path, given), by_pytorch(model, given), atol=1e-4)
    assert not [name for node in onnx.load(str(path)).graph.node for name in node.output if "model.7" in name]
    assert 0 <= check.real <= 1e-4  # on real images


@pytest.mark.slow
def test_fp16_file_is_near_pytorch_and_smaller(alone, half, model, extractor):
    for count in (0, 1, 7):
        given = example(extractor, count)
        np.testing.assert_allclose(run(half[0], given), by_pytorch(model, given), atol=2e-2)
    assert half[0].stat().st_size < 0.6 * alone[0].stat().st_size
    assert half[1].tolerance == 2e-2
    assert half[1].random > 1e-6  # it really is in half precision
    assert all(p.dtype == torch.float32 for p in model.decoder.parameters())  # the model is as it was
    assert any(isinstance(m, torch.nn.GroupNorm) for m in model.decoder.modules())


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2000, 0, 1])
def test_fp16_file_stands_large_features_where_all_arithmetic_is_fp16(scale, half, model, extractor):
    """GroupNorm squares what it gets, and 256 squared is more than fp16 holds.

    ONNX Runtime computes in float32 on CPUs and would not show it; onnx's own evaluator does as it is told.
    """
    given = example(extractor, 3, scale=scale)
    (masks,) = ReferenceEvaluator(str(half[0])).run(["masks"], feed(onnx_session(half[0]), given))
    np.testing.assert_allclose(masks, by_pytorch(model, given), atol=2e-2)


@pytest.mark.parametrize("file", ["alone", "merged", "half"])
def test_a_file_is_portable_and_says_what_a_program_must_know(file, request, model):
    """Opset 18 without GridSample, no weights beside it, no path of the machine that wrote it."""
    path, check = request.getfixturevalue(file)
    loaded, running = onnx.load(str(path)), onnx_session(path)
    onnx.checker.check_model(loaded, full_check=True)
    versions = {entry.domain: entry.version for entry in loaded.opset_import}
    assert versions.get("", versions.get("ai.onnx")) == 18
    assert len(versions) == len(
        loaded.opset_import
    )  # ONNX Runtime's quantization refuses a domain listed twice
    nodes = [*loaded.graph.node, *(node for function in loaded.functions for node in function.node)]
    assert not {node.op_type for node in nodes} & {"GridSample", "RoiAlign", "ATen"}
    assert not [t for t in loaded.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {p.name for p in path.parent.glob("[!.]*")} == {path.name, f"{path.name}.json", f"{path.name}.md"}
    for text in (str(ROOT).encode(), b"site-packages", b"stack_trace"):
        assert text not in path.read_bytes()

    inputs = {given.name: given.shape for given in running.get_inputs()}
    features = {LAYER: [1, 20, 16, 24], SECOND_LAYER: [1, 32, 8, 12], "image": [1, 3, *SIZE]}
    read = {"images": [1, 3, *SIZE]} if file == "merged" else features
    assert inputs == {**read, "rois": ["num_rois", 4], "pixel_size": [1]}
    assert {given.type for given in running.get_inputs()} == {"tensor(float)"}
    outputs = {output.name: output.shape[1:] for output in running.get_outputs()}
    assert outputs == {"masks": list(SIZE), "mask_scores": []}

    stored = {p.key: p.value for p in loaded.metadata_props}
    assert stored.items() >= {
        "producer": "roiseg", "checkpoint": model.path.name, "epoch": str(model.epoch),
        "image_size": json.dumps(SIZE), "layers": json.dumps(LAYERS), "merged": json.dumps(file == "merged"),
        "extractor_sha256": model.extractor_sha256,
    }.items()  # fmt: skip
    assert json.loads(stored["preprocess"]).items() >= {"color": "bgr", "image_size": list(SIZE)}.items()
    for name, words in {"rois": "0..1", "masks": "[N, H, W]", "pixel_size": "micrometres"}.items():
        assert words in stored[name]
    image = json.loads(stored["image_input"]) or "image"
    assert "[1, 3, H, W]" in stored[image]
    assert ("image" in stored) == (image == "image") == (file != "merged")
    assert check.passed
    assert max(check.random, check.real or 0) <= check.tolerance


def test_simplifying_removes_redundant_nodes():
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    assert [node.op_type for node in simplify_graph(model).graph.node] == ["Relu"]


def test_what_cannot_be_exported_is_a_user_error(model, tmp_path):
    with pytest.raises(UserError, match="onnx_path"):
        export_model(model, tmp_path / "model.onnx", ExportOptions(merged=True))
    assert not list(tmp_path.glob("[!.]*"))
    for opset in (17, 99):
        with pytest.raises(UserError, match=f"opset is {opset}, it must be from 18 to"):
            ExportOptions(opset=opset)


def call_the_input_image(path):
    """As the decoder's own input, which is joined to it."""
    loaded = onnx.load(str(path))
    loaded.graph.input[0].name = "image"
    renamed("images", "image")(loaded)
    onnx.save(loaded, str(path))


COMBINATIONS = [
    {"half": True, "batch": True},
    {"half": True, "free_size": True, "outputs": ALL},
    {"half": True, "simplify": True, "merged": True, "batch": True, "free_size": True, "outputs": ALL},
    {"simplify": True, "batch": True, "outputs": ALL, "dilate": 1},
    {"opset": 19, "batch": True, "outputs": ALL},
    {"opset": 20, "half": True, "simplify": True, "merged": True},
    {"opset": 22, "merged": True, "batch": True, "free_size": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(options))
def test_options_of_an_export_can_be_combined(options, model, tmp_path):
    """Two images of a size of their own, if the file takes them, against plain loops for each alone."""
    free = make_onnx(tmp_path / "free.onnx", size=("h", "w"), batch="N")
    extractor = OnnxExtractor(str(free), list(LAYERS), Preprocess(SIZE, color="bgr"), threads=1)
    path = tmp_path / "model.onnx"
    check = export_model(trained_model(model.decoder, extractor), path, ExportOptions(**options), extractor)
    assert check.passed
    running, loaded = onnx_session(path), onnx.load(str(path))
    versions = {entry.domain: entry.version for entry in loaded.opset_import}
    assert versions[""] == options.get("opset", 18)
    halves = [t for t in loaded.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert bool(halves) == options.get("half", False)
    if options.get("free_size"):
        extractor = extractor.resized((SIZE[0] + 64, SIZE[1] + 64))
    given = [example(extractor, pixel_size=3.0, seed=seed) for seed in range(1 + options.get("batch", 0))]
    arrays = [feed(running, one) for one in given]
    if options.get("batch"):
        for index, one in enumerate(arrays):
            one["rois"] = np.insert(one["rois"], 0, index, axis=1)
    inputs = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    masks = running.run(["masks"], inputs)[0]
    expected = np.concatenate([by_pytorch(model, one) for one in given])
    if options.get("dilate"):
        expected = np.array([cv2.dilate(one.astype(np.float32), np.ones((3, 3))) for one in expected])
    np.testing.assert_allclose(masks, expected, atol=2e-2 if options.get("half") else 1e-4)


KINDS = {
    "static": {}, "free batch": {"batch": "N"}, "fp16": {"dtype": "float16"},
    "external weights": external("weights.bin", "weights.bin"),
    "local functions": changed(local_functions).spoil, "input called image": call_the_input_image,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_extractors_of_every_kind_can_be_merged(kind, alone, model, tmp_path):
    options = KINDS[kind]
    detector = make_onnx(tmp_path / "detector.onnx", SIZE, **(options if isinstance(options, dict) else {}))
    if callable(options):
        options(detector)
    extractor = OnnxExtractor(str(detector), list(LAYERS), Preprocess(SIZE), threads=1)
    joined = merge_with_extractor(onnx.load(str(alone[0])), str(detector), LAYERS)
    save_onnx(joined, tmp_path / "merged.onnx", {})
    given = example(extractor, 3, 2.0)
    masks = run(tmp_path / "merged.onnx", given)
    np.testing.assert_allclose(masks, by_pytorch(model, given), atol=2e-2 if kind == "fp16" else 1e-4)


def test_a_merged_file_that_is_too_large_is_refused_with_weights_unread(alone, tmp_path, monkeypatch):
    """The limit of 2 GB, lowered: external weights stay outside until they are merged."""
    detector = make_onnx(tmp_path / "detector.onnx", size=SIZE)
    external("weights.bin", "weights.bin")(detector)
    assert load_onnx(detector).ByteSize() < (tmp_path / "weights.bin").stat().st_size
    decoder = onnx.load(str(alone[0]))
    monkeypatch.setattr(merge, "MAX_BYTES", decoder.ByteSize() + detector.stat().st_size)
    with pytest.raises(UserError, match=r"detector\.onnx .*more than one ONNX file can hold.*merged=false"):
        merge_with_extractor(decoder, str(detector), LAYERS)


def test_a_wrong_export_is_a_user_error_and_leaves_no_file(alone, model, tmp_path, monkeypatch):
    wrong = onnx.load(str(alone[0]))
    monkeypatch.setattr("roiseg.onnx_export.export.export_decoder", lambda *_: wrong)
    other = replace(model, decoder=with_random_weights(copy.deepcopy(model.decoder)))
    path = tmp_path / "model.onnx"
    with atomic_path(path) as temporary:  # recorded: it may be replaced
        temporary.write_bytes(b"an older export")
    with pytest.raises(UserError, match="differs from PyTorch") as error:
        export_model(other, path, ExportOptions())
    assert str(model.path) in str(error.value)
    assert path.read_bytes() == b"an older export"
    assert list(tmp_path.glob("[!.]*")) == [path]
