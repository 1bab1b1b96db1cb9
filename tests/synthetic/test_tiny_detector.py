import numpy as np
import onnx
import pytest
import torch
from helpers import ROOT, run_onnx

from roiseg.common.package_files import ShippedFile, package_file
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.yolo import Yolox
from roiseg.extractor.preprocess import Preprocess
from roiseg.geometry import boxes as box_ops
from roiseg.synthetic import synthetic_scene
from tools.tiny_detector import training
from tools.tiny_detector.network import IMAGE_SIZE, TinyPersonNet, person_boxes
from tools.tiny_detector.training import (
    export_onnx,
    letterbox_scene,
)

COMMITTED = package_file("ext_extractor") / "tiny_person_256.onnx"
SHAPES = {"features_s4": [1, 48, 64, 64], "features_s8": [1, 48, 32, 32]}


def test_committed_file_is_small_and_names_its_tensors():
    assert COMMITTED.stat().st_size < 950_000
    model = onnx.load(COMMITTED, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["output"]
    inner = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    assert {name: inner[name] for name in SHAPES} == SHAPES
    assert str(ROOT).encode() not in COMMITTED.read_bytes()
    picture = np.random.default_rng(0).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    features = run_onnx(COMMITTED, {"images": picture}, SHAPES)
    assert [list(f.shape) for f in features] == list(SHAPES.values())
    assert all(f.std() > 0 for f in features)


def test_committed_detector_finds_unseen_people():
    preprocess = Preprocess((IMAGE_SIZE, IMAGE_SIZE))
    extractor = OnnxExtractor(str(COMMITTED), ["features_s4"], preprocess, threads=1, postprocess=Yolox([8]))
    found = people = false = 0
    for index in range(20):
        image, instances, _ = letterbox_scene(synthetic_scene(0, "val", index))
        _, (seen,) = extractor.run_with_detections(preprocess(torch.from_numpy(image)[None]))
        truth = person_boxes(torch.from_numpy(instances)[None])[0]
        overlap = box_ops.iou(truth[~truth[:, 0].isnan()].numpy(), seen.boxes)
        people += len(overlap)
        found += (overlap >= 0.5).any(axis=1).sum()
        false += (overlap < 0.5).all(axis=0).sum()
    assert found >= 0.8 * people
    assert false <= 0.3 * people


@pytest.mark.slow  # an export
def test_untrained_network_is_small_and_exports_with_equal_results(tmp_path):
    torch.manual_seed(0)
    network = TinyPersonNet()
    assert sum(p.numel() for p in network.parameters()) < 230_000
    with torch.no_grad():  # statistics that folding must take into account
        network(torch.rand(4, 3, IMAGE_SIZE, IMAGE_SIZE) * 2)
    network.eval()
    path = export_onnx(network, tmp_path / "tiny.onnx")
    picture = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        wanted = network(picture)
    got = run_onnx(path, {"images": picture.numpy()}, ["output", *SHAPES])
    for found, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-4)
    assert not any("norm" in n.op_type.lower() for n in onnx.load(path).graph.node)
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["tiny.onnx"]


@pytest.mark.slow
def test_the_program_trains_and_exports(tmp_path, monkeypatch):
    arguments = [str(tmp_path / "made/x.onnx"), "--images", "4", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["tiny_detector", *arguments])
    training.main()
    model = onnx.load(tmp_path / "made/x.onnx")
    onnx.checker.check_model(model)
    assert model.graph.input[0].name == "images"


def test_the_committed_file_is_copied_where_it_is_wanted_and_missing(tmp_path):
    source = ShippedFile(tmp_path / "sub/tiny.onnx", "ext_extractor/tiny_person_256.onnx")
    assert source.makes(str(tmp_path / "sub/tiny.onnx"))
    assert not source.makes(str(tmp_path / "other.onnx"))
    made = source.ensure()
    assert made.read_bytes() == COMMITTED.read_bytes()
    made.write_bytes(b"mine")
    assert source.ensure().read_bytes() == b"mine"
