"""Reading checkpoints."""

import shutil

import pytest
import torch
from helpers import make_onnx, user_error
from tiny_run import LAYER, tiny_extractor

from roiseg.common.errors import UserError
from roiseg.inference.checkpoint import load_model

pytestmark = pytest.mark.filterwarnings("ignore")


def save(content, path):
    torch.save(content, path)
    return path


def test_load_model_gives_back_the_decoder_and_what_belongs_to_it(run, checkpoint, onnx_file):
    _, module = run
    extractor = tiny_extractor(onnx_file)
    model = load_model(checkpoint)
    assert not model.decoder.training
    trained = module.decoder.state_dict()
    assert model.decoder.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in model.decoder.state_dict().items())
    assert (model.path, model.epoch, list(model.layers)) == (checkpoint, 2, [LAYER])
    assert (list(model.shapes), model.image_size) == ([(20, 16, 16)], (64, 64))
    assert model.extractor_sha256 == extractor.digest
    features = extractor(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8))
    rois = torch.tensor([[0, 3.0, 4, 50, 60]])
    with torch.no_grad():
        expected = module.eval().decoder(features, rois).logits
        torch.testing.assert_close(model.decoder(features, rois).logits, expected, atol=1e-5, rtol=1e-5)


def test_needs_neither_detector_nor_data(tmp_path, content):
    content["roiseg"]["config"]["extractor"]["onnx_path"] = "/nowhere/detector.onnx"
    moved = save(content, tmp_path / "renamed.pth")
    assert load_model(moved).epoch == 2
    with pytest.raises(UserError, match=r"/nowhere/detector\.onnx"):
        load_model(moved).extractor()


def test_the_summary_tells_decoder_epoch_and_validation_iou_if_the_checkpoint_has_them(tmp_path, content):
    def summary(epochs):
        content["callbacks"] = {} if epochs is None else {"History": {"epochs": epochs}}
        return load_model(save(content, tmp_path / "renamed.pth")).summary

    epochs = [{"epoch": 1, "val/miou": 0.25}, {"epoch": 2, "val/miou": 0.751}]
    assert summary(epochs) == "roialign, epoch 2, mIoU 0.75"
    assert summary([{**epochs[1], "val/instance_iou": 0.5}]) == "roialign, epoch 2, instance IoU 0.50"
    for unknown in (
        None,
        [],
        epochs[:1],
        [{"epoch": 2}],
        [{"epoch": 2, "val/miou": float("nan")}],
        [7],
        "text",
    ):
        assert summary(unknown) == "roialign, epoch 2"


def test_opens_the_extractor_it_was_trained_on_and_no_other(checkpoint, onnx_file, tmp_path):
    moved = tmp_path / "elsewhere.onnx"
    shutil.copy(onnx_file, moved)
    here, there = load_model(checkpoint).extractor(), load_model(checkpoint).extractor(str(moved))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(here(images)[0], there(images)[0])
    assert torch.equal(here(images)[0], tiny_extractor(onnx_file)(images)[0])
    other = make_onnx(tmp_path / "other.onnx", batch="N")
    with pytest.raises(UserError, match="SHA-256"):
        load_model(checkpoint).extractor(str(other))


def test_code_in_the_configuration_of_the_extractor_is_not_called(content, tmp_path):
    hostile = {"_target_": "os.mkdir", "path": str(tmp_path / "trace")}
    content["roiseg"]["config"]["extractor"]["preprocess"] = hostile
    model = load_model(save(content, tmp_path / "extractor.pth"))
    assert "not trusted" in user_error(model.extractor)
    assert not (tmp_path / "trace").exists()


def test_finds_its_detector_beside_itself_if_it_is_gone_elsewhere(checkpoint, onnx_file, tmp_path, content):
    content["roiseg"]["config"]["extractor"]["onnx_path"] = f"/nowhere/{onnx_file.name}"
    moved = save(content, tmp_path / "renamed.pth")
    shutil.copy(onnx_file, tmp_path)
    assert load_model(moved).extractor().onnx_path == str(tmp_path / onnx_file.name)
