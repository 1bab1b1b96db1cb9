"""Every choice of `loss=` teaches a small decoder an image of overlapping ellipses by heart."""

from __future__ import annotations

import pytest
import torch
from helpers.decoders import NARROW, ellipse_scene, roialign
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from roiseg.common.errors import UserError
from roiseg.config.entry import CONF_DIR

pytestmark = pytest.mark.slow_except("[ce_dice]")

PRESETS = sorted(path.stem for path in (CONF_DIR / "loss").glob("*.yaml") if path.stem != "default")


def build(preset):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return instantiate(compose("train", overrides=[f"loss={preset}"]).loss, _convert_="all")


@pytest.mark.parametrize("preset", PRESETS)
def test_one_batch_of_overlapping_ellipses_can_be_learned_by_heart(preset):
    torch.manual_seed(0)
    decoder, loss = roialign(output_size=(28, 28), **NARROW)().train(), build(preset)
    try:
        loss.check(decoder)
    except UserError as error:
        pytest.skip(str(error))  # for another decoder
    scene = ellipse_scene(decoder)
    truth = scene.targets == 1
    optimizer = torch.optim.Adam([*decoder.parameters(), *loss.parameters()], lr=1e-2)
    best = 0.0
    for step in range(200):
        loss.epoch = 1 + step // 10
        output = decoder(scene.features, scene.rois)
        optimizer.zero_grad()
        loss(output, scene.targets)[0].backward()
        optimizer.step()
        predicted = output.logits.argmax(1) == 1
        best = max(best, float((predicted & truth).sum() / (predicted | truth).sum()))
        if best >= 0.97 and loss.epoch >= max(loss.starts.values()):
            break
    assert best >= 0.97
