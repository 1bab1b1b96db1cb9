"""Wrong types in a configuration, found by the annotations of what it is meant for."""

from __future__ import annotations

import re

import pytest
from helpers import user_error
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from roiseg.common.errors import UserError
from roiseg.config.build import to_plain
from roiseg.config.entry import CONF_DIR
from roiseg.config.validation import check_kinds, check_types


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
    assert message.startswith(f"configuration `{key}` is {value}, it must be ")


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


CASES = [
    ("export", "merged", "garbage"),
    ("export", "half", 1),
    ("export", "opset", "new"),
    ("check", "rois", 5),
    ("check", "runs", "many"),
    ("evaluate", "mask_quality", "garbage"),
    ("evaluate", "worst", True),
    ("evaluate", "min_score", "low"),
    ("predict", "mirrored", "garbage"),
    ("predict", "class_id", "person"),
    ("app", "port", "http"),
    ("report", "sizes", "garbage"),
    ("report", "resamples", 1e3),
    ("make_extractor", "bfloat16", "garbage"),
    ("synthesize", "train_images", "all"),
    ("preview", "samples", "all"),
    ("train", "test", "garbage"),
]


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_a_command_s_own_value_of_another_kind_is_refused(name, key, value):
    defaults = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{name}.yaml"))
    check_kinds(defaults, defaults)
    with pytest.raises(UserError, match=f"configuration `{key}` is {re.escape(repr(value))}, it must be"):
        check_kinds({**defaults, key: value}, defaults)
