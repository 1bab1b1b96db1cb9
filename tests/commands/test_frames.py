"""Commands with what every decoder shares: FiLM, detail branch, either frame, terms that start later."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from composing import composed
from omegaconf import OmegaConf

from roiseg.inference.checkpoint import load_model, read_checkpoint
from roiseg.onnx_export.check import validation_samples
from roiseg.preview import preview
from roiseg.train import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LAYER = "/model.6/Concat_output_0"


@pytest.fixture
def without_model(tiny_overrides):
    """The overrides that hold for any model."""
    return [o for o in tiny_overrides if not o.startswith("model.")]


def inputs_of(path):
    return {given.name for given in ort.InferenceSession(str(path)).get_inputs()}


def test_film_and_detail_train_draw_and_export(run_train, tmp_path):
    summary = run_train(tmp_path, "model.film=1.0", "model.detail=8", "debug=limit", export=True)
    assert summary["onnx_check"]["passed"]
    assert summary["onnx_check"]["real"] <= 1e-4
    assert Path(summary["last_overlay"]).is_file()
    assert inputs_of(summary["onnx"]) == {LAYER, "rois", "image", "pixel_size"}
    decoder = load_model(summary["best_checkpoint"]).decoder
    assert decoder.film.base_size == 1.0
    assert decoder.detail.correct.in_channels == 8


def test_a_model_in_the_image_frame_trains_draws_and_exports(without_model, tmp_path):
    unet = ["model=unet", "model.channels=8", "model.depth=1", "model.film=1.0", "model.detail=4"]
    options = ["data.metric_size=[20,12]", "callbacks.onnx_export.merged=true"]
    summary = train(composed([*without_model, *unet, *options], tmp_path)).content()
    assert summary["onnx_check"]["passed"]
    assert 0 < summary["final"]["val/miou"] < 1
    assert summary["test"]["test/miou"] == pytest.approx(summary["best"]["val/miou"], abs=1e-6)
    model = load_model(summary["best_checkpoint"])
    assert model.decoder.frame == "image"
    samples = validation_samples(model, model.extractor())  # what roiseg.export compares on
    assert [sample.targets.shape[1:] for sample in samples] == [model.decoder.output_size] * 3
    picture = cv2.imread(summary["last_overlay"])[:, :, ::-1]
    assert (picture == (255, 0, 0)).all(axis=2)[: len(picture) // 2].any()
    image = np.random.default_rng(0).uniform(0, 1, (1, 3, 64, 64)).astype(np.float32)
    rois = np.float32([[0.25, 0.5, 0.75, 1.0], [-0.5, 0.1, 0.3, 0.2]])
    feed = {"images": image, "rois": rois, "pixel_size": np.float32([1])}
    (masks,) = ort.InferenceSession(summary["onnx"]).run(["masks"], feed)
    inside = np.zeros((2, 64, 64), bool)
    inside[0, 32:64, 16:48] = inside[1, 6:13, 0:19] = True  # pixels whose centre is in the ROI
    assert (masks[~inside] == 0).all()
    assert (masks[inside] > 0).all()


def test_a_resumed_run_with_a_late_term_learned_weights_film_and_detail_equals_the_whole(run_train, tmp_path):
    extra = ["loss.terms.dice.from_epoch=2", "loss.learned=true", "model.film=1.0", "model.detail=4"]
    whole = run_train(tmp_path / "whole", "trainer.max_epochs=3", *extra)
    assert "train/loss_dice" not in whole["history"][0]
    assert "train/loss_dice" in whole["history"][1]
    first, *_, last = sorted(Path(whole["checkpoint_dir"]).glob("*.pth"))
    folder = tmp_path / "cut/checkpoints/run"
    folder.mkdir(parents=True)
    (folder / first.name).write_bytes(first.read_bytes())  # as if killed in the second epoch
    (folder / ".roiseg_run").touch()
    resumed = run_train(tmp_path / "cut", "trainer.max_epochs=3", "ckpt_path=last", *extra)
    assert resumed["history"] == whole["history"]
    expected, got = (read_checkpoint(p)["state_dict"] for p in (last, folder / last.name))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


# --- micrometres ----------------------------------------------------------------------------------


def test_pixel_sizes_in_micrometres_reach_the_decoder(run_train, coco_set, tmp_path):
    """The same figures with all sizes times 1000 and the base size too; others with the base size alone."""
    content = coco_set.content()
    losses = []
    for factor, film in ((1.0, 0.5), (1000.0, 500.0), (1.0, 500.0)):
        for number, image in enumerate(content["images"]):
            image["pixel_size_um"] = factor * (0.2 + 0.3 * number)
        path = tmp_path / "micrometres.json"
        path.write_text(json.dumps(content))
        files = [f"data.{split}_annotations={path}" for split in ("train", "val")]
        summary = run_train(tmp_path, *files, f"model.film={film}", "trainer.max_epochs=1")
        losses.append(summary["final"]["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


# --- preview --------------------------------------------------------------------------------------


def previewed(overrides, root, model=None):
    """The image of a preview, with `model` in place of the configuration's."""
    path = root / "p.png"
    cfg = composed([*overrides, f"+output={path}", "+samples=3", "+epoch=1"], root)
    if model is not None:
        OmegaConf.set_struct(cfg, False)
        cfg.model = model
    return cv2.imread(str(preview(cfg)))


@pytest.mark.parametrize("stride", [4, 8])
def test_the_preview_shows_targets_over_each_roi_whatever_the_decoders_frame(
    tiny_overrides, tmp_path, stride
):
    roi = previewed([*tiny_overrides, "model.output_size=[56,56]"], tmp_path)
    model = {"_target_": "helpers.image_decoder.TinyImageDecoder", "map_stride": stride}
    image = previewed(tiny_overrides, tmp_path, model)
    np.testing.assert_array_equal(image, roi)  # both on data.metric_size=[56,56]


def test_the_preview_draws_on_the_metric_grid(tiny_overrides, tmp_path):
    fine, coarse = (
        previewed([*tiny_overrides, f"data.metric_size={size}"], tmp_path) for size in ("[56,56]", "[4,4]")
    )
    assert fine.shape == coarse.shape
    assert (fine != coarse).any()
