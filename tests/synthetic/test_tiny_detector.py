from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT, run_onnx

from roiseg.common.package_files import package_file
from roiseg.geometry import boxes as box_ops
from roiseg.synthetic import TinyDetector, synthetic_scene
from tools.tiny_detector import training
from tools.tiny_detector.network import IMAGE_SIZE, TinyPersonNet, assign, person_boxes
from tools.tiny_detector.training import (
    Pretraining,
    decode_rows,
    detection_loss,
    export_onnx,
    letterbox_scene,
    pretrain,
    render_images,
)

COMMITTED = package_file("ext_extractor") / "tiny_person_256.onnx"
SHAPES = {"features_s4": [1, 48, 64, 64], "features_s8": [1, 48, 32, 32]}


def detect(output: torch.Tensor, threshold: float = 0.3) -> np.ndarray:
    """Boxes [N, 4] after suppression at IoU 0.65."""
    boxes, scores = decode_rows(output[None])[0].numpy(), (output[:, 4] * output[:, 5]).numpy()
    boxes, scores = boxes[scores > threshold], scores[scores > threshold]
    return boxes[box_ops.nms(boxes, scores, 0.65, 100)]


def test_committed_file_is_small_and_names_its_tensors() -> None:
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


def test_committed_detector_finds_unseen_people() -> None:
    session = onnxruntime.InferenceSession(COMMITTED, providers=["CPUExecutionProvider"])
    found = people = false = 0
    for index in range(20):
        image, instances, _ = letterbox_scene(synthetic_scene(0, "val", index))
        picture = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        output = torch.from_numpy(session.run(["output"], {"images": picture})[0][0])
        assert output.shape == (1024, 6)
        truth = person_boxes(torch.from_numpy(instances)[None])[0]
        truth = truth[~truth[:, 0].isnan()]
        overlap = torch.from_numpy(box_ops.iou(truth.numpy(), detect(output)))
        people += len(truth)
        found += int((overlap >= 0.5).any(1).sum())
        false += int((overlap < 0.5).all(0).sum())
    assert found >= 0.8 * people
    assert false <= 0.3 * people


def test_untrained_network_is_small_and_exports_with_equal_results(tmp_path: Path) -> None:
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


def test_person_boxes_and_cells() -> None:
    instances = torch.zeros(1, 256, 256, dtype=torch.uint8)
    instances[0, 40:100, 80:96] = 1
    instances[0, 200:256, 10:40] = 3
    boxes = person_boxes(instances, 4)
    assert boxes[0, 0].tolist() == [80, 40, 96, 100]
    assert boxes[0, 2].tolist() == [10, 200, 40, 256]
    assert boxes[0, [1, 3]].isnan().all()
    own, positive = assign(boxes, (256, 256))
    assert own[positive].unique(dim=0).tolist() == [[10, 200, 40, 256], [80, 40, 96, 100]]
    assert positive.reshape(32, 32)[70 // 8, 88 // 8]


def test_loss_of_perfect_rows_is_lowest() -> None:
    boxes = torch.tensor([[[80.0, 40, 96, 100], [float("nan")] * 4]])
    own, positive = assign(boxes, (IMAGE_SIZE, IMAGE_SIZE))
    rows = torch.zeros(1, 1024, 6)
    index = torch.arange(1024)
    cells = torch.stack([index % 32, index // 32], 1)
    rows[..., :2] = (own[..., :2] + own[..., 2:]).nan_to_num() / 16 - cells
    rows[..., 2:4] = ((own[..., 2:] - own[..., :2]) / 8).nan_to_num(1).log()
    rows[..., 4] = torch.where(positive, 12.0, -12.0)
    rows[..., 5] = 12.0
    torch.testing.assert_close(decode_rows(rows)[positive], own[positive])
    perfect = detection_loss(rows, boxes)
    assert perfect < 0.01
    rows[..., 0] += 0.5
    assert detection_loss(rows, boxes) > perfect + 0.1


@pytest.mark.slow
def test_learning_lowers_the_loss_and_repeats_itself() -> None:
    pictures = render_images(8, seed=5)
    boxes = person_boxes(pictures.instances)

    def error(steps: int) -> float:
        network = pretrain(pictures, Pretraining(steps, 4, 3e-3, 0, "cpu", bfloat16=False))
        with torch.no_grad():
            raw = network.train().raw(network.features(pictures.images.float() / 255)[1])
        return float(detection_loss(raw, boxes))

    assert error(15) < 0.8 * error(1)
    assert error(2) == pytest.approx(error(2), rel=1e-4)


@pytest.mark.slow
def test_the_program_trains_and_exports(tmp_path, monkeypatch):
    arguments = [str(tmp_path / "made/x.onnx"), "--images", "4", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["tiny_detector", *arguments])
    training.main()
    model = onnx.load(tmp_path / "made/x.onnx")
    onnx.checker.check_model(model)
    assert model.graph.input[0].name == "images"


def test_the_committed_file_is_copied_where_it_is_wanted_and_missing(tmp_path):
    source = TinyDetector(tmp_path / "sub/tiny.onnx")
    assert source.makes(str(tmp_path / "sub/tiny.onnx"))
    assert not source.makes(str(tmp_path / "other.onnx"))
    made = source.ensure()
    assert made.read_bytes() == COMMITTED.read_bytes()
    made.write_bytes(b"mine")
    assert source.ensure().read_bytes() == b"mine"
