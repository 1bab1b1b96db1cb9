"""Every file in conf/ composes, and what it names can be built."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import nn

import roiseg.__main__
import roiseg.train
from roiseg.__main__ import COMMANDS
from roiseg.common.errors import UserError
from roiseg.config.argv import help_text, quote
from roiseg.config.build import to_plain
from roiseg.config.compose import compose_run
from roiseg.config.entry import CONF_DIR
from roiseg.config.validation import TrainOptions, check_types
from roiseg.data.copy_paste import CopyPaste
from roiseg.decoders.base import Decoder, DecoderOutput
from roiseg.extractor.postprocess.base import Postprocessor


def choices(group):
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))


@pytest.fixture
def composing(monkeypatch):
    monkeypatch.setenv("ROISEG_REALDATA", "/somewhere")

    def run(*overrides, config="train"):
        own = config in ("train", "preview", "doctor")
        fixed = ["paths.root_dir=/r", "paths.output_dir=/r/outputs/x"] if own else []
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return compose(config, overrides=[*fixed, *map(quote, overrides)])

    return run


CASES = [
    f"{group}={choice}"
    for group in ("data", "extractor", "model", "loss", "optimizer", "scheduler", "trainer", "experiment", "debug")
    for choice in choices(group)
    if not (choice == "default" and group in ("data", "extractor", "loss"))
]  # fmt: skip
CASES += [
    f"{group}={choice}"
    for group in ("data/augment", "data/augment/paste", "data/cache", "data/pool", "data/folds", "clicks", "tta",
                  "callbacks", "logger")
    for choice in (*choices(group), "null")
]  # fmt: skip
TAUGHT = ("experiment=coco128_fast", "distillation=teachers")  # whose teachers must be given
CASES += [*TAUGHT[1:], "distillation=null"]
CASES += [f"experiment=decoder/{choice}" for choice in choices("experiment/decoder")]
CASES += [f"{group}=[{c}]" for group in ("callbacks", "logger") for c in choices(group)]


@pytest.mark.parametrize("override", CASES)
def test_every_choice_composes_and_resolves(composing, override):
    given = [override] if override not in TAUGHT else [override, "distillation.teachers=[one.pth]"]
    assert to_plain(composing(*given))["seed"] == 0


LEFT_OUT = (
    "data/augment",
    "data/augment/paste",
    "data/cache",
    "data/folds",
    "data/pool",
    "distillation",
    "tta",
)


@pytest.mark.parametrize("experiment", [case for case in CASES if case.startswith("experiment=")])
def test_a_group_is_left_out_with_what_an_experiment_sets_in_it(experiment, tmp_path):
    cfg = compose_run(
        tmp_path / "run", experiment, *(f"{group}=null" for group in LEFT_OUT), "callbacks=null"
    )
    check_types(OmegaConf.to_container(cfg, resolve=True), options=TrainOptions)
    assert [cfg.data[key] for key in ("cache", "folds", "pool")] == [None] * 3
    assert (cfg.data.augment.paste, cfg.tta, cfg.distillation, cfg.callbacks) == (None,) * 4
    assert cfg.data.augment.geometric is None


def test_a_tilde_in_files_and_lists_is_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\npaths: {root_dir: ~/runs}\ndata: {train_annotations: ~/a.json}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/my/home")
    cfg = compose_run("~/run", "experiment=mine", "+extra=['~/b',{c: '~/d'}]", "variant=~e")
    assert (cfg.paths.output_dir, cfg.data.train_annotations) == ("/my/home/run", "/my/home/a.json")
    assert (cfg.extra, cfg.variant) == (["/my/home/b", {"c": "/my/home/d"}], "~e")


def test_an_option_of_a_group_that_is_not_chosen_is_no_silent_nothing(tmp_path):
    cfg = compose_run(tmp_path / "run", "+data.pool.size=3")
    with pytest.raises(UserError, match=r"`data.pool` is {'size': 3}"):
        check_types(OmegaConf.to_container(cfg, resolve=True), options=TrainOptions)


@pytest.mark.parametrize("choice", sorted(set(choices("postprocess")) - {"default"}))
def test_every_way_to_read_a_detectors_boxes_can_be_built(composing, choice):
    cfg = composing(f"postprocess@extractor.postprocess={choice}")
    assert isinstance(instantiate(cfg.extractor.postprocess, _convert_="all"), Postprocessor)


@pytest.mark.slow_except("heavy")
@pytest.mark.parametrize("level", [*choices("data/augment"), "null"])
def test_every_augmentation_builds_and_pasting_is_added_to_it(composing, level):
    alone = to_plain(composing(f"data/augment={level}"))["data"]["augment"]
    assert (instantiate(alone, _convert_="all").photometric is None) == (level == "null")
    pasted = to_plain(composing("data/augment/paste=people", f"data/augment={level}"))["data"]["augment"]
    assert alone.pop("paste") is None
    assert isinstance(instantiate(pasted.pop("paste"), _convert_="all"), CopyPaste)
    assert pasted == alone


@pytest.fixture(scope="module")
def losses():
    names = sorted(set(choices("loss")) - {"default"})
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        nodes = {name: compose("train", overrides=[f"loss={name}"]).loss for name in names}
    return {name: instantiate(node, _convert_="all") for name, node in nodes.items()}


@pytest.mark.slow_except("cascade_sam")
@pytest.mark.parametrize("model", choices("model"))
def test_every_decoder_trains_with_every_loss_that_fits(composing, losses, model):
    facts = {"in_channels": (8, 8, 8), "strides": (8, 16, 32), "image_size": (64, 64)}
    decoder = instantiate(composing(f"model={model}").model, **facts, _convert_="all")
    assert isinstance(decoder, Decoder)
    features = [torch.randn(1, 8, 64 // stride, 64 // stride) for stride in decoder.strides]
    output = decoder(features, torch.tensor([[0.0, 4, 4, 40, 60]]))
    assert isinstance(output, DecoderOutput)
    target = torch.randint(0, 3, (1, *decoder.output_size), dtype=torch.uint8)
    fitting = []
    for name, loss in losses.items():
        try:
            loss.check(decoder)
        except UserError as error:
            assert "output `" in str(error)  # noqa: PT017 - most combinations raise nothing
            continue
        total, _ = loss(output, target)
        total.backward(retain_graph=True)
        assert torch.isfinite(total)
        fitting.append(name)
    assert (model if model in losses else "ce_dice") in fitting


@pytest.mark.slow_except("adamw-cosine")
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


@pytest.mark.parametrize("path", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF_DIR)))
def test_every_target_exists(path):
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


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_with_its_comment_and_every_choice(name):
    text = help_text(name)
    lines = (CONF_DIR / f"{name}.yaml").read_text().splitlines()
    options = [line for line in lines if re.match(r"[a-z_]+:", line) and line not in ("defaults:", "hydra:")]
    assert options
    assert all(line in text for line in options)
    if name == "train":
        assert re.search(r"^  data/augment: heavy, light, medium$", text, re.MULTILINE)


def test_configuration_in_the_working_directory_adds_choices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf/extractor"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [default]\nlayers: [x]\nonnx_path: mine.onnx\n")
    assert re.search(r"^  extractor \[tiny\]: default, mine, tiny,", help_text("train"), re.MULTILINE)
    cfg = compose_run("run", "extractor=mine")
    assert cfg.extractor.onnx_path == "mine.onnx" and cfg.extractor.preprocess.divisor == 255


def test_the_list_of_commands_is_complete(capsys, monkeypatch):
    package = CONF_DIR.parent / "roiseg"
    assert set(COMMANDS) == {p.stem for p in package.glob("*.py") if "@command(" in p.read_text()}
    assert set(COMMANDS) == {p.stem for p in CONF_DIR.glob("*.yaml")}
    monkeypatch.setattr("sys.argv", ["roiseg"])
    roiseg.__main__.main()
    assert all(f"  {name} " in capsys.readouterr().out for name in ["train"])
    monkeypatch.setattr("sys.argv", ["roiseg", "trian"])
    with pytest.raises(SystemExit) as end:
        roiseg.__main__.main()
    assert end.value.code == 2
    assert "nearest: train" in capsys.readouterr().err


@pytest.mark.slow_except("cascade_sam")
@pytest.mark.parametrize("model", ["sam", "pointrend", "cascade", "cascade_sam"])
def test_a_model_with_a_loss_of_its_own_names_it(composing, model):
    """The model does not change the loss; with another one the error says what to add, and that is enough."""
    facts = {"in_channels": (8, 8, 8), "strides": (8, 16, 32), "image_size": (64, 64)}
    plain = composing(f"model={model}")
    assert plain.loss == composing().loss
    decoder = instantiate(plain.model, **facts, _convert_="all")
    instantiate(composing(f"model={model}", f"loss={model}").loss, _convert_="all").check(decoder)
    with pytest.raises(UserError, match="loss=sam for model=sam") as raised:
        instantiate(plain.loss, _convert_="all").check(decoder)
    added = re.findall(r"loss\.terms\.\w+\.weight=1", str(raised.value))
    assert added


LAYERS = "/model.1/act/Relu_output_0,/model.3/Concat_output_0,/model.6/Concat_output_0"  # strides 2, 4, 8


@pytest.mark.slow_except("roialign")
@pytest.mark.parametrize("model", choices("model"))
def test_every_model_runs_a_batch_of_training_and_validation(run_main, tiny_overrides, model):
    kept = [o for o in tiny_overrides if not o.startswith(("model.", "extractor.layers", "trainer"))]
    loss = [f"loss={model}"] if model in choices("loss") else []
    arguments = [*kept, f"extractor.layers=[{LAYERS}]", f"model={model}", *loss, "debug=fdr"]
    code, stderr = run_main(roiseg.train, *arguments)
    assert code == 0, stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("roiseg pre", "predict preview prepare"),
        pytest.param("roiseg train model=co", "model=coarse model=condinst", marks=pytest.mark.slow),
        pytest.param("roiseg predict tta=f", "tta=full", marks=pytest.mark.slow),
    ],
)
def test_tab_offers_commands_keys_and_choices(typed, offered, tmp_path):
    """`eval "$(roiseg --completion)"` in a real bash."""
    script = f"""eval "$(roiseg --completion)"
    COMP_LINE="{typed}" COMP_WORDS=({typed}) COMP_CWORD={len(typed.split()) - 1}
    _roiseg
    echo "${{COMPREPLY[@]}}" """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == offered, done.stderr


def test_it_is_composed_with_overrides_and_lies_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = to_plain(compose_run("outputs/x y", "model=unet", "trainer.max_epochs=3", "data.folds=null"))
    assert config["model"]["_target_"].endswith("UNetDecoder")
    assert config["trainer"]["max_epochs"] == 3
    assert config["paths"]["output_dir"] == f"{ROOT}/outputs/x y"
    assert config["paths"]["checkpoint_dir"] == f"{ROOT}/outputs/checkpoints/x y"
    assert config["extractor"]["onnx_path"].startswith(f"{ROOT}/")


def test_an_absolute_folder_stays_and_configurations_do_not_mix(tmp_path):
    first, second = (
        compose_run(tmp_path / "a", "seed=1"),
        compose_run(tmp_path / "b", "seed=2", config="preview"),
    )
    assert to_plain(first)["paths"]["output_dir"] == str(tmp_path / "a")
    assert (first.seed, second.seed, "samples" in first, "samples" in second) == (1, 2, False, True)
