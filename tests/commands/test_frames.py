"""Commands with what every decoder shares: FiLM, detail branch, either frame."""

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from composing import composed
from omegaconf import OmegaConf

from roiseg.inference.checkpoint import load_model
from roiseg.onnx_export.check import validation_samples
from roiseg.preview import preview
from roiseg.train import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def without_model(tiny_overrides):
    """The overrides that hold for any model."""
    return [o for o in tiny_overrides if not o.startswith("model.")]


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


def previewed(overrides, root, model=None):
    """The image of a preview, with `model` in place of the configuration's."""
    path = root / "p.png"
    cfg = composed([*overrides, f"+output={path}", "+samples=3", "+epoch=1"], root)
    if model is not None:
        OmegaConf.set_struct(cfg, False)
        cfg.model = model
    return cv2.imread(str(preview(cfg)))


@pytest.mark.parametrize("stride", [4, 8])
def test_the_preview_shows_the_same_targets_in_either_frame(tiny_overrides, tmp_path, stride):
    roi = previewed([*tiny_overrides, "model.output_size=[56,56]"], tmp_path)
    model = {"_target_": "helpers.image_decoder.TinyImageDecoder", "map_stride": stride}
    image = previewed(tiny_overrides, tmp_path, model)
    np.testing.assert_array_equal(image, roi)  # both on data.metric_size=[56,56]
