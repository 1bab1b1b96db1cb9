"""Wrong types in a configuration, found by the annotations of what it is meant for."""

import copy
import functools
import importlib
import math
import re
import typing

import pytest
from helpers import ROOT, user_error
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from roiseg.common.errors import UserError
from roiseg.common.types import check_value, option_types
from roiseg.config.build import to_plain
from roiseg.config.entry import CONF_DIR
from roiseg.config.validation import TrainOptions, check_types
from roiseg.data.folds import Folds


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
        "callbacks.extremes.count": [-1, 1.5],
        "callbacks.checkpoint.keep": [-2],
        "callbacks.checkpoint.every_n_epochs": [0, -1],
        "scheduler.final": [-0.1, 1.5],
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
    ("distillation=teachers", "distillation.teachers=[a.pth]"): {
        "distillation.teachers": [[], "a.pth"], "distillation.weight": [0, "much"],
    },
    ("model=cascade",): {
        "model.film": ["x"], "model.first.film": ["x"], "model.second.detail": ["a"],
        "model.second.roi_size": [[7, "x"]], "model.first.depth": ["deep"],
    },
    ("loss=focal",): {"loss.terms.focal.term.gamma": [-0.5], "loss.terms.focal.term.alpha": [[1.0, -1.0]]},
    ("loss=ce_tversky",): {"loss.terms.tversky.term.beta": [-0.1]},
    ("loss=bce_dice",): {"loss.terms.bce_dice.term.bce_weight": [-1]},
    ("loss=ce_dice_contrastive",): {"loss.terms.contrastive.term.negatives": [[], [1]]},
    ("scheduler=step",): {"scheduler.milestones": [[2.0]], "scheduler.gamma": [0, -1]},
    ("scheduler=poly",): {"scheduler.power": [-1]},
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


BAD = {
    "export": {"merged": ["garbage"], "half": [1], "opset": ["new"], "rois": [5], "runs": [0]},
    "evaluate": {"worst": [True, -1], "min_score": [1], "precision": ["64"], "boxes": ["some"]},
    "predict": {
        "class_id": ["person"], "threshold": [0], "min_score": [1.1], "pixel_size": [0.0], "max_boxes": [0],
        "on_error": ["ignore"], "crowd": ["none"],
    },
    "app": {"port": ["http", 65536]},
    "analyze": {"grid": [7], "min_roi_size": [0]},
    "report": {"sizes": ["garbage"], "resamples": [1e3, 99, 10**9]},
    "demo": {"val_images": [0], "train_images": ["all"]},
    "prepare": {"seed": ["x"]},
    "preview": {"samples": ["all", 0], "epoch": [-1], "seed": [-1]},
    "doctor": {"seed": [2**32], "decoders": [3]},
    "train": {
        "test": ["garbage"], "test_best": ["perhaps"], "seed": [True, 10**14], "optimized_metric": [1],
        "trainer.precision": ["64-true", "bf16-true", "16-true", "transformer-engine", "3-bit"],
        "trainer.accumulate_grad_batches": [0, -1], "trainer.val_check_interval": [0, -0.5],
        "trainer.gradient_clip_val": [math.inf, -1, "much"], "trainer.log_every_n_steps": [-1],
        "trainer.num_sanity_val_steps": [-2], "trainer.limit_train_batches": [0, -0.5],
        "trainer.limit_test_batches": [0], "trainer.check_val_every_n_epoch": [0], "optimizer.lr": ["fast"],
    },
}  # fmt: skip
COMMANDS = [
    path.stem for path in sorted(CONF_DIR.glob("*.yaml")) if (ROOT / f"roiseg/{path.stem}.py").is_file()
]


def options_of(name):
    """What a command checks its own keys against."""
    module = importlib.import_module(f"roiseg.{name}")
    return getattr(module, {"train": "TrainOptions", "prepare": "prepare"}.get(name, "Options"))


def test_file_names_that_are_not_utf8_are_texts():
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    for hint, value in ((str | None, name), (list[str], [name]), (dict[str, int], {name: 1})):
        check_value(value, hint, "a file")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_a_command_that_is_a_number_or_truth_value_has_a_type(name):
    defaults = OmegaConf.load(CONF_DIR / f"{name}.yaml")
    typed = {key for key in defaults if isinstance(defaults._get_node(key)._value(), (bool, int, float))}
    assert typed <= typing.get_type_hints(options_of(name)).keys()
    known = {key: defaults[key] for key in typed}
    check_types(known, options=options_of(name))


@pytest.mark.parametrize("name", BAD)
def test_a_command_s_own_value_of_another_type_or_out_of_range_is_refused(name):
    for key, value in ((key, value) for key, values in BAD[name].items() for value in values):
        first, *rest = key.split(".")
        message = user_error(check_types, {first: {rest[0]: value} if rest else value}, "", options_of(name))
        assert message.startswith(f"configuration `{key}` is {value!r}: it must be ")


OUT_OF_RANGE = {
    "roiseg.extractor.postprocess.yolo.Yolox": {
        "labels": [[], [0, -1]], "score_threshold": [-0.1, 1], "iou_threshold": [0, 1.1], "max_detections": [0],
        "strides": [[], [8, 0], [-8]],
    },
    "roiseg.extractor.postprocess.rows.BoxesAndScores": {"form": ["xywh"], "activation": ["relu"]},
    "roiseg.extractor.cache.memory.MemoryCache": {"budget_gb": [0, -1.0]},
    "roiseg.extractor.cache.disk.DiskCache": {"budget_gb": [0]},
    "roiseg.inference.writers.crops.CropsWriter": {"ratio": [0.9], "min_size": [0]},
    "roiseg.inference.writers.image.OverlayWriter": {"alpha": [1.5]},
    "roiseg.inference.writers.image.SixPanelWriter": {"panel_width": [0]},
    "roiseg.data.datamodule.RoiDataModule": {
        "batch_size": [0], "val_batch_size": [0, 1.5], "num_workers": [-1], "min_roi_size": [-1, "big", math.nan],
        "metric_size": [[0, 5], [-1, 5], [5], [5, 5, 5], []], "on_error": ["ignore"], "crowd": ["both"],
    },
    "roiseg.data.augment.GeometricAugment": {
        "flip": [2, -0.1], "scale": [[0, 1], [-1, 1], [1, "x"], [2, 1]], "aspect": [-1, float("inf")],
        "shift": [1.1],
    },
    "roiseg.data.augment.AugmentationPool": {"size": [0], "refresh": [0]},
    "roiseg.data.copy_paste.CopyPaste": {
        "probability": [1.5], "near": [-0.1], "tone": [2], "people": [0], "max_zoom": [0],
        "scale": [[0, 1], [1.4, 0.7], [1.0]],
    },
    "roiseg.data.samplers.RoiSampler": {
        "rois_per_image": [0], "jitter_share": [1.5], "jitter_center": [-1], "hard_weight": [float("nan")],
    },
    "roiseg.data.tta.TTA": {"crop_scales": [[1.0, 2.0]], "max_crop_share": [0, 0.8]},
    "roiseg.web.models.Limits": {"megabytes": [0], "megapixels": [-1, float("nan")]},
    "roiseg.data.folds.Folds": {"number": [1], "held_out": [-1]},
    "roiseg.synthetic.dataset.SyntheticPeople": {"train_images": [0, 10**6], "val_images": [-1], "seed": [-1]},
}  # fmt: skip


@pytest.mark.parametrize("target", OUT_OF_RANGE)
def test_an_option_of_a_class_of_the_data_out_of_range_is_named(target):
    for key, bad in ((key, bad) for key, values in OUT_OF_RANGE[target].items() for bad in values):
        message = user_error(check_types, {"_target_": target, key: bad}, "node")
        assert re.match(rf"configuration `node\.{key}` is {re.escape(repr(bad))}: it", message)


# any number, or a range that depends on others, which a constructor checks
FREE = {
    "divisor",
    "mean",
    "std",
    "opset",
    "category_id",
    "class_id",
    "pull_margin",
    "push_margin",
    "class_weights",
}


def test_every_number_in_the_configuration_has_a_range():
    seen, free = set(), set()
    for path in CONF_DIR.rglob("*.yaml"):
        for target, key, value in numbers(OmegaConf.to_container(OmegaConf.load(path))):
            kind = getattr(importlib.import_module(target.rpartition(".")[0]), target.rpartition(".")[2])
            hint = option_types(kind).get(key)  # None: an option of a class of Lightning
            seen.add((target, key))
            if hint is not None and has_bare_number(hint) and key not in FREE:
                free.add(f"{target} {key}: {hint}, {value} in {path.name}")
    assert not free
    assert len(seen) > 100


def numbers(node):
    """List what objects of this package get as numbers or lists of them: (target, key, value)."""
    target = str(node.get("_target_")) if isinstance(node, dict) else ""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            yield from numbers(value)
        first = value[0] if isinstance(value, list) and value else value
        if target.startswith("roiseg.") and type(first) in (int, float):
            yield target, key, value


def has_bare_number(hint):
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__ not in (int, float) and has_bare_number(hint.__origin__)
    return hint in (int, float) or any(map(has_bare_number, typing.get_args(hint)))


def test_a_fold_beyond_the_last_is_refused():
    with pytest.raises(UserError, match=r"data\.folds\.held_out must be 0 to 4"):
        Folds(number=5, held_out=5)


def read(path, category_id) -> dict:
    """An annotation reader that is a function."""
    return {}


@pytest.mark.parametrize(
    ("key", "node", "said"),
    [
        ("reader", {"_target_": f"{__name__}.read", "_partial_": True}, None),
        ("reader", {"_target_": f"{__name__}.read"}, "it must make objects of type AnnotationReader"),
        ("reader", {"_target_": "roiseg.data.coco_reader.CocoReader"}, None),
        ("reader", {"_target_": "roiseg.data.coco_reader.Coco"}, "the name of a class"),
        ("reader", {"_target_": f"{__name__}.BAD"}, "it must make objects of type AnnotationReader"),
        ("sampler", {"_target_": "roiseg.data.tta.TTA"}, "it must make objects of type RoiSampler"),
        ("sampler", {"_target_": None}, "the name of a class"),
        ("sampler", {"rois_per_image": 3}, "an instance of RoiSampler"),
        ("tta", {"_target_": "roiseg.data.tta.TTA"}, None),
    ],
)
def test_what_a_node_builds_is_of_the_kind_that_its_key_is_for(key, node, said):
    content = {"_target_": "roiseg.data.datamodule.RoiDataModule", key: node}
    if said is None:
        return check_types(content, "data")
    message = user_error(check_types, content, "data")
    assert message.startswith(f"configuration `data.{key}")
    assert said in message
