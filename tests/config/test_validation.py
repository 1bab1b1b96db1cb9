"""Wrong types in a configuration, found by the annotations of what it is meant for."""

from __future__ import annotations

import copy
import functools
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
from roiseg.config.validation import TrainOptions, check_types


@pytest.fixture(scope="module")
def composed():
    """The training configuration with some overrides, as plain values."""

    def run(*overrides):
        fixed = ["paths.root_dir=/r", "paths.output_dir=/r/outputs/x"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
            return to_plain(compose("train", overrides=[*fixed, *overrides]))

    return run


# choices on the command line -> bad values by key, each wrong alone
BAD_VALUES = {
    (): {
        "model.num_classes": [1, 4, 2.0, True],
        "model.film": ["x", [1.0], 0, -1.0, math.inf, math.nan],
        "model.detail": ["a", 8.5, 0],
        "model.depth": [2.5, -1],
        "model.mid_channels": [0],
        "model.sampling_ratio": [0],
        "model.prior": ["perhaps", 1],
        "model.roi_size": [None, 14, [7], [7, 0], [7, "x"], [7, 7, 7], "77"],
        "data.metric_size": [[5, "x"]],
        "loss.emphasis.outside": ["much", -1],
        "loss.learned": ["perhaps"],
        "loss.terms.ce.weight": [-1, "1", None, math.inf],
        "loss.terms.ce.from_epoch": [0, 1.5, "2"],
        "loss.terms.ce.term.label_smoothing": [-0.1, 1.0],
        "loss.terms.dice.term.smooth": ["x", 0.0],
        "loss.terms.dice.term.classes": [[], [3], [-1], ["1"]],
        "scheduler.warmup": [-0.1, 1.5],
        "callbacks.overlays.row_height": [31, "tall"],
        "callbacks.in_epoch.every_n_steps": [0],
        "callbacks.pr_curve.thresholds": [1],
    },
    ("model=unet",): {"model.frame": ["picture", None], "model.channels": [0], "model.map_stride": [0]},
    ("model=fcn8s",): {"model.dropout": [1.0, -0.1], "model.fc_channels": [0]},
    ("model=pointrend",): {"model.importance_ratio": [1.5], "model.train_points": [0], "model.coarse.hidden": [0]},
    ("model=pyramid",): {"model.margin": [-1], "model.base_stride": [0], "model.dropout": [1]},
    ("model=yolact",): {"model.prototypes": [0], "model.roi_depth": [-1], "model.upsample": [0, 1.5]},
    ("model=condinst",): {"model.mask_depth": [-1]},
    ("model=sam", "clicks=random"): {
        "model.candidates": [0], "model.heads": [0], "model.dim": [0], "model.stride": [0, 4.5],
        "clicks.share": ["half", 1.1], "clicks.positive": [1.5, -1],
    },
    ("model=cascade",): {
        "model.film": ["x"], "model.first.film": ["x"], "model.second.detail": ["a"],
        "model.second.roi_size": [[7, "x"]], "model.first.depth": ["deep"],
    },
    ("loss=focal",): {"loss.terms.focal.term.gamma": [-0.5], "loss.terms.focal.term.alpha": [[1.0, -1.0]]},
    ("loss=ce_tversky",): {"loss.terms.tversky.term.beta": [-0.1]},
    ("loss=bce_dice",): {"loss.terms.bce_dice.term.bce_weight": [-1]},
    ("loss=ce_dice_contrastive",): {"loss.terms.contrastive.term.negatives": [[], [1]]},
    ("scheduler=step",): {"scheduler.milestones": [[2.0]]},
}  # fmt: skip


@pytest.mark.parametrize("choices", BAD_VALUES, ids=",".join)
def test_a_wrong_type_or_range_is_named_with_its_key_and_value(composed, choices):
    content = composed(*choices)
    check_types(content, "", TrainOptions)
    for key, values in BAD_VALUES[choices].items():
        *parents, last = key.split(".")
        node = functools.reduce(dict.__getitem__, parents, content)
        for value in values:
            wrong = copy.deepcopy(content)
            functools.reduce(dict.__getitem__, parents, wrong)[last] = value
            message = user_error(check_types, wrong, "", TrainOptions)
            pattern = rf"configuration `{re.escape(key)}` is {re.escape(repr(value))}: .*(must|should) [^\n]+"
            assert re.fullmatch(pattern, message), (key, value, message)
        assert last in node  # the key is one that the configuration has


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
    ("export", "rois", 5),
    ("export", "runs", 0),
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
    ("demo", "bfloat16", "garbage"),
    ("demo", "train_images", "all"),
    ("prepare", "seed", "x"),
    ("preview", "samples", "all"),
    ("preview", "samples", 0),
    ("preview", "seed", -1),
    ("doctor", "seed", 2**32),
    ("doctor", "decoders", 3),
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
