"""Wrong types in a configuration, found by the annotations of what it is meant for."""

from __future__ import annotations

import importlib
import math
import re
import typing

import pytest
from helpers import user_error
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from roiseg.config.build import to_plain
from roiseg.config.entry import CONF_DIR
from roiseg.config.validation import check_types


@pytest.fixture(scope="module")
def composed():
    """The training configuration with some overrides, as plain values."""

    def run(*overrides):
        fixed = ["paths.root_dir=/r", "paths.output_dir=/r/outputs/x"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return to_plain(compose("train", overrides=[*fixed, *overrides]))

    return run


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["model.film=x"], "model.film", "'x'"),
        (["model.film=[1.0]"], "model.film", "[1.0]"),
        (["model.detail=a"], "model.detail", "'a'"),
        (["model.detail=8.5"], "model.detail", "8.5"),
        (["model.depth=2.5"], "model.depth", "2.5"),
        (["model=cascade", "model.film=x"], "model.film", "'x'"),
        (["model=cascade", "model.first.film=x"], "model.first.film", "'x'"),
        (["model=cascade", "model.second.detail=a"], "model.second.detail", "'a'"),
        (["model=cascade", "model.second.roi_size=[7,x]"], "model.second.roi_size", "[7, 'x']"),
        (["model=cascade", "model.first.depth=deep"], "model.first.depth", "'deep'"),
        (["data.metric_size=[5,x]"], "data.metric_size", "[5, 'x']"),
        (["clicks=random", "clicks.share=half"], "clicks.share", "'half'"),
        (["clicks=random", "clicks.positive=1.5"], "clicks.positive", "1.5"),
        (["loss.emphasis.outside=much"], "loss.emphasis.outside", "'much'"),
        (["loss.learned=perhaps"], "loss.learned", "'perhaps'"),
        (["loss.terms.dice.term.smooth=x"], "loss.terms.dice.term.smooth", "'x'"),
    ],
    ids=str,
)
def test_a_wrong_type_is_named_with_its_key_and_value(composed, overrides, key, value):
    message = user_error(check_types, composed(*overrides))
    assert re.match(
        rf"configuration `{re.escape(key)}` is {re.escape(value)}: (it|its item \[\d\]) must be ", message
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.film=1", "model.detail=8"],
        ["model.film=0.5"],
        ["model=cascade", "model.film=1.5", "model.first.film=2", "model.second.detail=4"],
        ["clicks=random", "clicks.share=1"],
        ["data.metric_size=null"],
        ["loss.emphasis=null"],
        ["loss.class_weights=log"],
    ],
    ids=str,
)
def test_sound_configurations_pass(composed, overrides):
    check_types(composed(*overrides))


COMMANDS = {path.stem: path for path in CONF_DIR.glob("*.yaml")}
BAD = [
    ("export", "merged", "garbage"),
    ("export", "half", 1),
    ("export", "opset", "new"),
    ("check", "rois", 5),
    ("check", "runs", 0),
    ("evaluate", "mask_quality", "garbage"),
    ("evaluate", "worst", True),
    ("evaluate", "worst", -1),
    ("evaluate", "min_score", 1),
    ("evaluate", "precision", "64"),
    ("evaluate", "boxes", "some"),
    ("predict", "class_id", "person"),
    ("predict", "threshold", 0),
    ("predict", "min_score", 1.1),
    ("predict", "pixel_size", 0.0),
    ("predict", "max_boxes", 0),
    ("predict", "on_error", "ignore"),
    ("predict", "crowd", "none"),
    ("app", "port", "http"),
    ("app", "port", 65536),
    ("analyze", "grid", 7),
    ("analyze", "min_roi_size", 0),
    ("report", "sizes", "garbage"),
    ("report", "resamples", 1e3),
    ("report", "resamples", 99),
    ("make_extractor", "bfloat16", "garbage"),
    ("synthesize", "train_images", "all"),
    ("prepare", "seed", "x"),
    ("preview", "samples", "all"),
    ("preview", "samples", 0),
    ("preview", "seed", -1),
    ("doctor", "seed", 2**32),
    ("models", "models", "unet"),
    ("train", "test", "garbage"),
    ("train", "seed", True),
    ("train", "optimized_metric", 1),
    ("train", "trainer", {"precision": "64-true"}),
    ("train", "trainer", {"accumulate_grad_batches": 0}),
    ("train", "trainer", {"val_check_interval": 0}),
    ("train", "trainer", {"val_check_interval": -0.5}),
    ("train", "trainer", {"gradient_clip_val": math.inf}),
    ("train", "trainer", {"log_every_n_steps": -1}),
    ("train", "trainer", {"num_sanity_val_steps": -2}),
    ("train", "trainer", {"limit_train_batches": 0}),
    ("train", "optimizer", {"lr": "fast"}),
]


def options_of(name):
    """What a command checks its own keys against."""
    module = importlib.import_module(f"roiseg.{name}")
    special = {
        "train": "TrainOptions",
        "synthesize": "SyntheticPeople",
        "make_extractor": "TinyDetector",
        "prepare": "prepare",
    }
    return getattr(module, special.get(name, "Options"))


@pytest.mark.parametrize(
    "name", [name for name in sorted(COMMANDS) if (CONF_DIR.parent / f"roiseg/{name}.py").is_file()]
)
def test_every_key_of_a_command_that_is_a_number_or_truth_value_has_a_type(name):
    defaults = OmegaConf.load(COMMANDS[name])
    typed = {key for key in defaults if isinstance(defaults._get_node(key)._value(), (bool, int, float))}
    assert typed <= typing.get_type_hints(options_of(name)).keys()
    known = {key: defaults[key] for key in typed}
    check_types(known, options=options_of(name))


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_a_command_s_own_value_of_another_type_or_out_of_range_is_refused(name, key, value):
    message = user_error(check_types, {key: value}, "", options_of(name))
    path, wrong = (
        (f"{key}.{next(iter(value))}", next(iter(value.values())))
        if isinstance(value, dict)
        else (key, value)
    )
    assert message.startswith(f"configuration `{path}` is {wrong!r}: it must be ")
