"""Wrong types in a configuration, found before anything is built."""

from __future__ import annotations

import contextlib
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

from roiseg.common.errors import UserError

# whose annotations mean what they say for values out of yaml; kornia wants tuples, which yaml lacks
_CHECKED = ("roiseg.", "callbacks.", "lightning.")
# what the program replaces before it hands it on: `log` becomes numbers
_REPLACED = ("loss.class_weights",)


def check_types(node: Any, path: str = "") -> None:
    """Compare every value below `node` with the annotation of the parameter it is meant for.

    Args:
        node: plain configuration; dicts with a `_target_` are checked against that callable.
        path: dotted key of `node`, for messages.

    Raises:
        UserError: names the key, the value and what is expected.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check_types(item, f"{path}[{number}]")
    if not isinstance(node, dict):
        return
    hints = _hints(node.get("_target_", ""))
    for key, value in node.items():
        where = f"{path}.{key}" if path else str(key)
        if key in hints and where not in _REPLACED and not _builds_something(value):
            _check(value, hints[key], where)
        check_types(value, where)


def _hints(target: str) -> dict[str, Any]:
    if not target.startswith(_CHECKED):
        return {}
    found = get_object(target)
    if not inspect.isclass(found):
        return typing.get_type_hints(found)
    hints: dict[str, Any] = {}  # a class hands what it does not name itself on to the class it extends
    for kind in reversed(found.__mro__):
        if kind.__module__.startswith(_CHECKED):
            with contextlib.suppress(NameError):  # a type of an extra that is not installed
                hints |= typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    return hints


def _builds_something(value: Any) -> bool:
    """Does `value` hold a `_target_`, so that the parameter gets an object and not this dict?"""
    if isinstance(value, dict):
        return "_target_" in value or any(_builds_something(v) for v in value.values())
    return isinstance(value, list) and any(_builds_something(v) for v in value)


def _check(value: Any, hint: Any, where: str) -> None:
    try:
        check_type(
            value,
            hint,
            forward_ref_policy=ForwardRefPolicy.IGNORE,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError:
        wanted = hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
        raise UserError(f"configuration `{where}` is {value!r}, it must be {wanted}") from None


def check_kinds(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Compare a command's own values with the kinds of their defaults.

    A word for true or false, say, is true to Python, whatever it says.

    Args:
        values: of the command, resolved.
        defaults: those of its configuration file; what is null, text, an empty list or a node is passed over.

    Raises:
        UserError: names the key, the value and what is expected.
    """
    for key, default in defaults.items():
        kind = type(default)
        if kind not in _KINDS or default == [] or key not in values:
            continue
        accepted, words = _KINDS[kind]
        value = values[key]
        number = kind is not bool and isinstance(value, bool)
        if number or not isinstance(value, accepted) or (isinstance(value, float) and math.isnan(value)):
            raise UserError(f"configuration `{key}` is {value!r}, it must be {words}")


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    list: ((list,), "a list"),
}


_MOST = 2**32 - 1  # that numpy takes as a seed

# the detector's features are float32, so the decoder's weights are, too
_PRECISIONS = ("32-true", "32", 32, "bf16-mixed", "bf16", "16-mixed", "16", 16)
# what Lightning takes and then crashes on, or does nothing with
_TRAINER: dict[str, tuple[Callable[[Any], bool], str]] = {
    "precision": (lambda value: value in _PRECISIONS, "32-true, bf16-mixed or 16-mixed"),
    "accumulate_grad_batches": (lambda value: value >= 1, "1 or more"),
    "check_val_every_n_epoch": (lambda value: value >= 1, "1 or more"),
    "val_check_interval": (lambda value: not isinstance(value, (int, float)) or value > 0, "above 0"),
    "gradient_clip_val": (lambda value: 0 <= value < math.inf, "0 (no clipping) or more"),
    "log_every_n_steps": (lambda value: value >= 0, "0 (never) or more"),
    "num_sanity_val_steps": (lambda value: value >= -1, "-1 (all) or more"),
    **{f"limit_{part}_batches": (lambda value: value > 0, "above 0") for part in ("train", "test")},
}


def check_values(cfg: DictConfig) -> None:
    """Check what a run is given beside the options of its parts.

    Raises:
        UserError: names the key, the value and what is expected.
    """
    check_whole(cfg, "seed", 0, _MOST)
    for key in ("test", "test_best"):
        _require(isinstance(cfg[key], bool), key, cfg[key], "true or false")
    metric = cfg.optimized_metric
    _require(metric is None or isinstance(metric, str), "optimized_metric", metric, "a metric's name or null")
    for key, (fits, wanted) in _TRAINER.items():
        value = cfg.trainer.get(key)
        _require(value is None or fits(value), f"trainer.{key}", value, wanted)
    rate = cfg.optimizer.get("lr", 0.0)
    _require(isinstance(rate, (int, float)), "optimizer.lr", rate, "a number")
    _check_optimizer(cfg)


def check_whole(cfg: DictConfig, key: str, least: int, most: int) -> None:
    """Make sure that `key` is a whole number of a range.

    Raises:
        UserError: it is not.
    """
    value = cfg[key]
    fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    _require(fits, key, value, f"a whole number from {least} to {most}")


def _require(fits: bool, key: str, value: Any, wanted: str) -> None:
    if not fits:
        raise UserError(f"configuration `{key}` is {value!r}, it must be {wanted}")


def _check_optimizer(cfg: DictConfig) -> None:
    """Torch checks its options when it is given parameters, which is after the run has begun to write."""
    make = instantiate(cfg.optimizer, _convert_="all")
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"configuration `optimizer`: {error}") from None
