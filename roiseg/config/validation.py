"""Check a configuration against the annotations of the classes, functions and commands it is for.

Every command lists its own keys in a class of annotations, beside the command or, for training, here.
"""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import TypedDict, get_protocol_members, is_typeddict

from roiseg.common.errors import UserError
from roiseg.common.types import Seed, builds_object, check_value, option_types
from roiseg.config.build import to_plain
from roiseg.data.coco_reader import find_category
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.tta import TTA
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.decision import Decision
from roiseg.losses.composite import CompositeLoss
from roiseg.training.clicks import Clicks
from roiseg.training.distillation import Distillation

# whose annotations can be trusted for values out of yaml; kornia wants tuples, which yaml does not have
_CHECKED = ("roiseg.", "callbacks.", "lightning.")
# keys that take the name of a category, and the keys of the files that have it
_CATEGORIES = {
    "data.category_id": ("data.train_annotations", "data.val_annotations"),
    "category_id": ("annotations", "boxes"),
}


@dataclasses.dataclass(frozen=True)
class Builds:
    """Annotates a node whose `_target_`, if it has one, must be a `kind` or a function that returns one."""

    kind: type


class PathOptions(TypedDict, total=False):
    """Keys of conf/paths."""

    root_dir: str
    output_dir: str
    checkpoint_dir: str
    data_dir: str
    extractor_dir: str
    analysis_dir: str
    index_dir: str | None
    cache_dir: str


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

    paths: PathOptions
    data: RoiDataModule
    extractor: OnnxExtractor
    model: Decoder
    loss: Annotated[LossOptions, Builds(CompositeLoss)]
    optimizer: Annotated[OptimizerOptions, Builds(torch.optim.Optimizer)]
    scheduler: Annotated[dict[str, Any] | None, Builds(torch.optim.lr_scheduler.LRScheduler)]
    decision: Decision
    tta: TTA | None
    clicks: Clicks | None
    distillation: Distillation | None
    trainer: Annotated[TrainerOptions, Builds(L.Trainer)]
    callbacks: Mapping[str, Annotated[dict[str, Any] | None, Builds(L.Callback)]] | None
    logger: Mapping[str, Annotated[dict[str, Any] | None, Builds(Logger)]] | None
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
            where = f"{path}[{number}]"
            if builds_object(node):
                _check(item, _item_type(options), where)
            check_types(item, where, _item_type(options))
    if not isinstance(node, dict):
        return
    target, hints = node.get("_target_"), _nested_types(node, options)
    if isinstance(target, str) and target.startswith(_CHECKED):
        hints = option_types(pydoc.locate(target), _CHECKED) | hints
    # first what others are interpolations of, so that the message names the key that was given
    for key, value in sorted(node.items(), key=lambda e: (isinstance(e[1], (dict, list)), e[0] != "paths")):
        where = f"{path}.{key}" if path else str(key)
        hint = hints.get(key, Any)
        _check(value, hint, where)
        check_types(value, where, hint)


def _check(value: Any, hint: Any, where: str) -> None:
    """Check one value, not what is below it."""
    if isinstance(value, dict) and "_target_" in value:
        partial = value.get("_partial_") and _without_marks(hint) is hint  # then the key is for the function
        return _check_target(value["_target_"], Any if partial else hint, where)
    kind = _without_marks(hint)
    object_wanted = inspect.isclass(kind) and bool(_kinds(kind)) and not dataclasses.is_dataclass(kind)
    if object_wanted or not builds_object(value):
        check_value(value, dict if is_typeddict(kind) else kind, f"configuration `{where}`")


def _check_target(target: Any, hint: Any, where: str) -> None:
    """Check that a `_target_` exists and makes what the key is for, before it is called."""
    kinds, problem = _kinds(hint), ""
    try:
        found = pydoc.locate(target) if isinstance(target, str) else None
    except pydoc.ErrorDuringImport as error:
        found, problem = None, f" that can be imported ({error.value})"
    if found is None:
        wanted = f"be the name of a class, package.module.Class{problem}"
    elif kinds and not any(_makes(found, kind) for kind in kinds):
        wanted = f"make objects of type {' or '.join(kind.__name__ for kind in kinds)}"
    elif callable(found):
        return
    else:
        wanted = "be a class or a function"
    raise UserError(f"configuration `{where}._target_` is {target!r:.200}: it must {wanted}")


def _makes(found: Any, kind: type) -> bool:
    """Tell whether a call of `found` returns a `kind`."""
    if not inspect.isclass(found):
        try:
            found = typing.get_type_hints(found).get("return", Any)
        except (TypeError, NameError, AttributeError):  # as functions written in C
            return False
    if not inspect.isclass(found):  # a function that does not say what it returns
        return True
    try:
        return issubclass(found, kind)
    except TypeError:  # a protocol
        return all(hasattr(found, name) for name in get_protocol_members(kind))


def _kinds(hint: Any) -> list[type]:
    """Return the classes in an annotation whose objects a `_target_` may build."""
    if typing.get_origin(hint) is Annotated:
        marks = [mark.kind for mark in hint.__metadata__ if isinstance(mark, Builds)]
        return marks or _kinds(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(hint) for kind in _kinds(member)]
    plain = ("builtins", "typing", "typing_extensions", "collections.abc", "pathlib", "datetime")
    is_kind = inspect.isclass(hint) and not is_typeddict(hint) and hint.__module__ not in plain
    return [hint] if is_kind else []


def _without_marks(hint: Any) -> Any:
    """Return an annotation without `Builds`."""
    marked = typing.get_origin(hint) is Annotated and any(isinstance(m, Builds) for m in hint.__metadata__)
    return typing.get_args(hint)[0] if marked else hint


def _item_type(hint: Any) -> Any:
    """Return the annotation of the items of a list; Any if there is none."""
    for member in (hint, *typing.get_args(hint)):
        if typing.get_origin(member) in (list, Sequence):
            return typing.get_args(member)[0]
    return Any


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
    hint = _without_marks(hint)
    for member in (hint, *typing.get_args(hint)):  # X | None
        if typing.get_origin(member) is Mapping:
            return dict.fromkeys(node, typing.get_args(member)[1])
    if is_typeddict(hint) or inspect.isfunction(hint) or dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint, include_extras=True)
    return {}
