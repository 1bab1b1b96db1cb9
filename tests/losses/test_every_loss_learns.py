"""Every choice of `loss=` teaches a small decoder an image of overlapping ellipses by heart."""

import pytest
import torch
from helpers.decoders import NARROW, learned_target_iou, roialign
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
    assert learned_target_iou(decoder, loss, 200, 1e-2) >= 0.97
