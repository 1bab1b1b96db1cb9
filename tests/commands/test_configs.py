"""Every file in conf/ composes, and what it names can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from roiseg.common.errors import UserError
from roiseg.config.build import to_plain
from roiseg.config.entry import CONF_DIR
from roiseg.data.copy_paste import CopyPaste
from roiseg.decoders.base import Decoder, DecoderOutput
from roiseg.extractor.postprocess.base import Postprocessor


def choices(group):
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))


@pytest.fixture
def composing(monkeypatch):
    monkeypatch.setenv("ROISEG_REALDATA", "/somewhere")

    def run(*overrides, config="train"):
        fixed = (
            ["paths.root_dir=/r", "paths.output_dir=/r/outputs/x"] if config in ("train", "preview") else []
        )
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return compose(config, overrides=[*fixed, *overrides])

    return run


CASES = [
    f"{group}={choice}"
    for group in ("data", "extractor", "model", "loss", "optimizer", "scheduler", "trainer", "experiment", "debug")
    for choice in choices(group)
    if not (choice == "default" and group in ("data", "extractor", "loss"))
] + [f"{group}={c}" for group in ("data/augment", "data/augment/paste") for c in choices(group)]  # fmt: skip
CASES += [f"{group}=[{c}]" for group in ("callbacks", "logger") for c in choices(group)]


@pytest.mark.parametrize("override", CASES)
def test_every_choice_composes_and_resolves(composing, override):
    assert to_plain(composing(override))["seed"] == 0


@pytest.mark.parametrize("choice", sorted(set(choices("postprocess")) - {"default"}))
def test_every_way_to_read_a_detectors_boxes_can_be_built(composing, choice):
    cfg = composing(f"postprocess@extractor.postprocess={choice}")
    assert isinstance(instantiate(cfg.extractor.postprocess, _convert_="all"), Postprocessor)


@pytest.mark.parametrize("level", choices("data/augment"))
def test_pasting_is_added_to_any_augmentation(composing, level):
    alone = to_plain(composing(f"data/augment={level}"))["data"]["augment"]
    pasted = to_plain(composing("data/augment/paste=people", f"data/augment={level}"))["data"]["augment"]
    assert alone.pop("paste") is None
    assert isinstance(instantiate(pasted.pop("paste"), _convert_="all"), CopyPaste)
    assert pasted == alone


@pytest.mark.parametrize("model", choices("model"))
@pytest.mark.parametrize("loss", sorted(set(choices("loss")) - {"default"}))
def test_every_decoder_trains_with_every_loss_that_fits(composing, model, loss):
    cfg = composing(f"model={model}", f"loss={loss}")
    facts = {"in_channels": (8, 8, 8), "strides": (8, 16, 32), "image_size": (64, 64)}
    decoder = instantiate(cfg.model, **facts, _convert_="all")
    assert isinstance(decoder, Decoder)
    measure = instantiate(cfg.loss, _convert_="all")
    try:
        measure.check(decoder)
    except UserError as error:
        assert "output `" in str(error)  # noqa: PT017 - most combinations raise nothing
        return
    features = [torch.randn(1, 8, 64 // stride, 64 // stride) for stride in decoder.strides]
    output = decoder(features, torch.tensor([[0.0, 4, 4, 40, 60]]))
    assert isinstance(output, DecoderOutput)
    target = torch.randint(0, 3, (1, *decoder.output_size), dtype=torch.uint8)
    total, _ = measure(output, target)
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("scheduler", choices("scheduler"))
@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_optimizer_steps_with_every_schedule(composing, optimizer, scheduler):
    cfg = composing(f"optimizer={optimizer}", f"scheduler={scheduler}")
    parameter = nn.Parameter(torch.ones(3))
    steps = instantiate(cfg.optimizer, _convert_="all")([parameter])
    schedule = instantiate(cfg.scheduler, _convert_="all")(steps, total_steps=10)
    parameter.grad = torch.ones(3)
    steps.step()
    schedule.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("level", choices("data/augment"))
def test_every_augmentation_level_builds(composing, level):
    augment = instantiate(composing(f"data/augment={level}").data.augment, _convert_="all")
    assert (augment.photometric is None) == (level == "none")


@pytest.mark.parametrize("path", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF_DIR)))
def test_every_target_exists(path):
    import yaml
    from hydra.utils import get_object

    def targets(node):
        if isinstance(node, dict):
            if "_target_" in node:
                yield node["_target_"]
            for value in node.values():
                yield from targets(value)
        elif isinstance(node, list):
            for value in node:
                yield from targets(value)

    for target in targets(yaml.safe_load(Path(path).read_text())):
        if target == "???":  # what those that build on it must say
            continue
        assert callable(get_object(target))


def test_sweep_presets_choose_their_plugins(composing):
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    assert any("joblib" in plugin.__module__ for plugin in Plugins.instance().discover(Launcher))
    text = (CONF_DIR / "sweep/joblib.yaml").read_text()
    assert "/hydra/launcher: joblib" in text


@pytest.mark.parametrize(
    "config",
    ["export", "prepare", "preview", "analyze", "synthesize", "make_extractor", "report", "predict", "check"],
)
def test_every_command_has_a_configuration(composing, config):
    assert isinstance(composing(config=config), DictConfig)
