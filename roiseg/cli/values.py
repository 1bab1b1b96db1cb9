"""Values of a run's configuration that only other libraries would refuse, and late."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError

_MOST = 2**32 - 1  # that numpy takes as a seed


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
    every = cfg.trainer.get("check_val_every_n_epoch", 1)
    _require(every is None or every >= 1, "trainer.check_val_every_n_epoch", every, "1 or more")
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
