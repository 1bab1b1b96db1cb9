"""How far half precision drifts from float32: one step of every decoder, and a whole training."""

import pytest
import torch
from helpers.decoders import CASES, IMAGE_SIZE, ellipse_scene
from tiny_run import tiny_data, tiny_decoder, tiny_extractor, tiny_module, tiny_trainer

from roiseg.decoders.base import Context
from roiseg.losses.composite import CompositeLoss
from roiseg.losses.cross_entropy import CrossEntropy
from roiseg.losses.dice import Dice

# relative difference of losses, cosine of gradients: twice the worst that was measured (the U-Net's)
TOLERANCES = {torch.bfloat16: (0.002, 0.98), torch.float16: (0.0003, 0.999)}

SMALL = [case for case in CASES if case.small]


def step(case, dtype):
    """Loss and gradient of one step."""
    torch.manual_seed(0)
    decoder = case.make().train()
    for module in decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    scene = ellipse_scene(decoder)
    image = torch.rand(1, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(9))
    terms = {"ce": {"term": CrossEntropy(), "weight": 1.0}, "dice": {"term": Dice(), "weight": 1.0}}
    torch.manual_seed(1)  # PointRend draws its points
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        output = decoder(scene.features, scene.rois, Context(image, torch.ones(1)))
        loss, _ = CompositeLoss({**terms, **case.terms})(output, scene.targets)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])
    return loss.item(), gradient


@pytest.mark.slow_except("roialign-28-56")
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_a_step_in_half_precision_goes_where_float32_goes(case, dtype):
    (loss, gradient), (expected, direction) = step(case, dtype), step(case, torch.float32)
    apart, alike = TOLERANCES[dtype]
    drift, cosine = abs(loss / expected - 1), float(torch.cosine_similarity(gradient, direction, dim=0))
    assert drift <= apart
    assert cosine >= alike


@pytest.mark.filterwarnings("ignore")
def test_a_training_in_bfloat16_ends_where_float32_ends(coco_set, onnx_file, tmp_path):
    figures = {}
    for precision in ("32-true", "bf16-mixed"):
        extractor = tiny_extractor(onnx_file)
        torch.manual_seed(0)
        decoder = tiny_decoder(extractor)
        trainer = tiny_trainer(tmp_path, max_epochs=5, precision=precision)
        trainer.fit(tiny_module(decoder), datamodule=tiny_data(coco_set, extractor, decoder))
        figures[precision] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    whole, half = figures["32-true"], figures["bf16-mixed"]
    assert half["train/loss"] == pytest.approx(whole["train/loss"], rel=0.02)
    assert half["val/loss"] == pytest.approx(whole["val/loss"], rel=0.02)
    assert half["val/miou"] == pytest.approx(whole["val/miou"], abs=0.02)
