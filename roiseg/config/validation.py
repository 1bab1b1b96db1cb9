"""Check a configuration against the annotations of the classes, functions and commands it is for.

Every command lists its own keys in a class of annotations, beside the command or, for training, here.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import TypedDict, is_typeddict

from roiseg.common.errors import UserError
from roiseg.common.types import Seed, builds_object, check_value, option_types
from roiseg.config.build import to_plain
from roiseg.data.coco_reader import find_category

# whose annotations can be trusted for values out of yaml; kornia wants tuples, which yaml does not have
_CHECKED = ("roiseg.", "callbacks.", "lightning.")
# keys that take the name of a category, and the keys of the files that have it
_CATEGORIES = {
    "data.category_id": ("data.train_annotations", "data.val_annotations"),
    "category_id": ("annotations", "boxes"),
}


class TrainerOptions(TypedDict, total=False):
    """Options that Lightning accepts out of range, and then crashes on or ignores."""

    # the detector's features are float32, and so are the decoder's weights
    precision: Literal["32-true", "32", 32, "bf16-mixed", "bf16", "16-mixed", "16", 16] | None
    accumulate_grad_batches: PositiveInt
    check_val_every_n_epoch: PositiveInt | None
    val_check_interval: PositiveInt | PositiveFloat | str | dict[str, int] | None
    gradient_clip_val: NonNegativeFloat | None  # 0: no clipping
    log_every_n_steps: NonNegativeInt | None  # 0: never
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None  # -1: all
    limit_train_batches: PositiveInt | PositiveFloat | None
    limit_test_batches: PositiveInt | PositiveFloat | None


class OptimizerOptions(TypedDict, total=False):
    """Options of every optimizer."""

    lr: float


class LossOptions(TypedDict, total=False):
    """Options of every loss; those of an analysis become numbers before the loss is built."""

    class_weights: Literal["log", "inverse"] | list[NonNegativeFloat] | None


class TrainOptions(TypedDict, total=False):
    """Keys of conf/train.yaml; preview and doctor extend it."""

    trainer: TrainerOptions
    optimizer: OptimizerOptions
    loss: LossOptions
    seed: Seed
    max_rois: PositiveInt
    ckpt_path: str | None
    variant: str | int | float | bool | None
    test: bool
    test_best: bool
    optimized_metric: Annotated[str, Field(pattern=r"^(train|val)/")] | None


def validated(cfg: DictConfig, options: Any) -> dict[str, Any]:
    """Return a command's configuration as plain values, all of them checked.

    The name of a category becomes its id, in `cfg` as well.

    Args:
        cfg: the composed configuration.
        options: class or function whose annotations are those of the command's own keys.

    Raises:
        UserError: a value is missing, of a wrong type or out of range.
    """
    number_category(cfg)
    content = to_plain(cfg)
    check_types(content, options=options)
    return content


def check_onnx_options(content: Mapping[Any, Any] | DictConfig, keys: Sequence[str]) -> None:
    """Refuse options that have no effect on an exported file.

    Args:
        content: the command's configuration; `onnx` and `ckpt` are among its keys.
        keys: those of a checkpoint's decoder; None, or empty, if they are not given.

    Raises:
        UserError: names the key.
    """
    if content["onnx"] is None:
        return
    for key in keys:
        if content[key]:
            raise UserError(
                f"{key} does not work with an exported file: leave it out, or give ckpt=... without onnx=..."
            )


def number_category(cfg: DictConfig) -> None:
    """Replace the name of a category by its id in the COCO file that the command reads.

    Raises:
        UserError: the file is missing or has no such category.
    """
    for key, files in _CATEGORIES.items():
        name = OmegaConf.select(cfg, key)
        file = next(filter(None, (OmegaConf.select(cfg, each) for each in files)), None)
        if isinstance(name, str) and isinstance(file, str) and file.lower().endswith(".json"):
            OmegaConf.update(cfg, key, find_category(name, file, key))


def check_types(node: Any, path: str = "", options: Any = None) -> None:
    """Check every value below `node` against the annotation of the parameter it is for.

    Args:
        node: plain configuration; dicts with a `_target_` are checked against that callable.
        path: dotted key of `node`, for messages.
        options: annotation of `node`: a class or function that names its keys, besides its `_target_`.

    Raises:
        UserError: names the key, the value and what is expected.
    """
    if isinstance(node, list):
        for number, item in enumerate(node):
            check_types(item, f"{path}[{number}]")
    if not isinstance(node, dict):
        return
    target = node.get("_target_", "")
    hints = option_types(get_object(target), _CHECKED) if target.startswith(_CHECKED) else {}
    hints |= _nested_types(node, options)
    for key, value in node.items():
        where = f"{path}.{key}" if path else str(key)
        hint = hints.get(key, Any)
        if not builds_object(value):
            check_value(value, dict if is_typeddict(hint) else hint, f"configuration `{where}`")
        check_types(value, where, hint)


def check_optimizer(cfg: DictConfig) -> None:
    """Build the optimizer once: torch checks its options only when it is given parameters.

    Raises:
        UserError: torch rejects an option.
    """
    make = instantiate(cfg.optimizer, _convert_="all")
    try:
        make([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UserError(f"configuration `optimizer`: {error}") from None


def _nested_types(node: dict[str, Any], hint: Any) -> dict[str, Any]:
    """Return the annotations of the keys of `node`, which is itself annotated with `hint`."""
    if typing.get_origin(hint) is Mapping:
        return dict.fromkeys(node, typing.get_args(hint)[1])
    if is_typeddict(hint) or inspect.isfunction(hint) or dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint, include_extras=True)
    return {}
