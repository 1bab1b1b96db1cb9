"""Values of a run's configuration that only other libraries would refuse, and late."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError

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
