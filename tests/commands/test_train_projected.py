"""Training on projected features, and everything that follows from its checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch
from composing import composed
from helpers import user_error

from roiseg.inference.checkpoint import load_model, read_checkpoint
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.train import train


@pytest.fixture(scope="module")
def projected(tiny_overrides, tmp_path_factory):
    """The configuration and summary of a run with a disk cache on features of four channels."""
    root = tmp_path_factory.mktemp("projected")
    overrides = [*tiny_overrides, "extractor.project=4", "data/cache=disk", f"data.index_dir={root}/index"]
    return overrides, root, train(composed(overrides, root)).content()


def test_checkpoint_has_the_projection_and_reads_the_detectors_own_tensors(projected):
    model = load_model(projected[2]["best_checkpoint"])
    extractor = model.extractor()
    channels = extractor.tensor_shapes[0][0]
    assert channels > 4 and model.decoder.in_channels == (4,) and extractor.channels == (channels,)
    image = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8)
    features, rois = extractor(image), torch.tensor([[0, 5.0, 5.0, 40.0, 50.0]])
    small = model.decoder.projection(features)
    with torch.no_grad():
        assert torch.equal(model.decoder(features, rois).logits, model.decoder(small, rois).logits)
    extractor.projection = model.decoder.projection
    assert torch.equal(extractor(image)[0], small[0]) and extractor.shapes[0][0] == 4


def test_export_alone_and_merged_agree_with_pytorch(projected, tmp_path):
    model = load_model(projected[2]["best_checkpoint"])
    assert Path(projected[2]["onnx"]).is_file()  # alone, checked when the run ended
    for name, merged in (("alone.onnx", False), ("merged.onnx", True)):
        options = ExportOptions(merged=merged)
        assert export_model(model, tmp_path / name, options, model.extractor()).passed


def test_second_run_finds_projection_and_features_and_resume_is_exact(projected):
    overrides, root, first = projected
    (stored,) = (root / "index").glob("projection_4_*.pt")
    before = stored.stat().st_mtime_ns
    again = train(composed([*overrides, "trainer.max_epochs=3"], root)).content()
    assert stored.stat().st_mtime_ns == before
    assert again["feature_cache"]["computed"] == 0 < again["feature_cache"]["hit"]
    resumed = train(
        composed([*overrides, "trainer.max_epochs=3", f"ckpt_path={first['best_checkpoint']}"], root)
    )
    assert resumed.content()["history"][-1]["epoch"] == 3


def test_other_number_of_channels_cannot_resume(projected):
    overrides, root, first = projected
    cfg = composed([*overrides, "extractor.project=5", f"ckpt_path={first['best_checkpoint']}"], root)
    assert "extractor.project=4 (this run: 5)" in user_error(train, cfg)


@pytest.mark.parametrize("project", ["four", 0, [4]])
def test_invalid_number_in_a_checkpoint_is_refused(projected, project, tmp_path):
    path = tmp_path / "changed.pth"
    shutil.copy(projected[2]["best_checkpoint"], path)
    content = read_checkpoint(path)
    content["roiseg"]["config"]["extractor"]["project"] = project
    torch.save(content, path)
    assert "invalid `config`" in user_error(load_model, path)
