"""Register the test data of a checkpoint as choices of Hydra's groups: `data=checkpoint` and below.

A checkpoint is not trusted: the file may come from anywhere. Its data configuration may name files to read,
numbers, and classes of the one roiseg module that a node is meant for; nothing that writes, and nothing that
calls other code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from roiseg.common.errors import UserError
from roiseg.config.private_api import parse_command_line
from roiseg.inference.checkpoint import read_checkpoint
from roiseg.inference.rebuild import locate

_FILES = ("data.val_annotations", "data.train_annotations")  # other files have no such split
_UNUSED = ("augment", "pool")  # of training; a test uses images unchanged


def register_checkpoint_data(arguments: Sequence[str]) -> None:
    """Register the data of the checkpoint on a command line with Hydra, before it composes.

    An exported file reads one view of unmodified features: `onnx=` disables test-time augmentation and the
    coding of the feature cache.

    Args:
        arguments: the command line; `ckpt=...` in it is the checkpoint. Without one, `data=checkpoint` is
            what all data sets share, without files.
    """
    given = _values(arguments, ("ckpt", "onnx", *_FILES))
    store = ConfigStore.instance()
    config, path = {}, Path()
    if given["ckpt"] is not None:
        path = Path(str(given["ckpt"]))
        config = read_checkpoint(path)["roiseg"]["config"]
    nodes = {}
    if all(given[key] is None for key in _FILES):
        nodes["folds"] = trusted_node(config, "data.folds", "roiseg.data.folds", path)
    tta = None
    if given["onnx"] is None:
        tta = trusted_node(config, "tta", "roiseg.data.tta", path)
        nodes["cache"] = _coding(config, path)
    store.store(group="tta", name="checkpoint", node={"tta": tta}, package="_global_")
    defaults: list[Any] = ["default", *({f"override {group}": None} for group in _UNUSED)]
    for group, node in nodes.items():
        if node is not None:
            store.store(group=f"data/{group}", name="checkpoint", node=node)
            defaults.append({f"override {group}": "checkpoint"})
    values = trusted_values(config, path)
    store.store(group="data", name="checkpoint", node={"defaults": defaults, **values})


def _coding(config: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """Return an empty cache that codes features as in training, so that a test gives the same metrics."""
    codec = trusted_node(config, "data.cache.codec", "roiseg.extractor.cache.codec", path)
    memory = "roiseg.extractor.cache.memory.MemoryCache"
    return None if codec is None else {"_target_": memory, "codec": codec, "budget_gb": 1e-9}


def _values(arguments: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return the values that a command line gives to some keys; None for the others."""
    words = parse_command_line(arguments).overrides
    found: dict[str, Any] = dict.fromkeys(keys)
    for override in OverridesParser.create().parse_overrides([word for word in words if "=" in word]):
        if override.key_or_group in found:
            if override.is_sweep_override():
                raise UserError(f"{override.key_or_group}: give one file; run the command once for each")
            found[override.key_or_group] = override.value()
    return found


_VALUES = (
    "train_annotations", "train_images", "val_annotations", "val_images", "category_id", "crowd",
    "min_roi_size", "metric_size", "val_batch_size",
)  # fmt: skip


def trusted_values(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the files and numbers of the data set, as options of `data`.

    Args:
        config: the checkpoint's configuration.
        path: the checkpoint, for messages.
    """
    data = config.get("data") or {}
    return {key: _checked(data[key], f"data.{key}", path, ()) for key in _VALUES if key in data}


def trusted_node(config: dict[str, Any], key: str, module: str, path: Path) -> dict[str, Any] | None:
    """Return a node of the configuration; None if it is missing.

    Args:
        key: dotted key, such as `data.folds`.
        module: the only module whose classes it may use, such as `roiseg.data.folds`.
    """
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    checked = _checked(node, key, path, (module,))
    if not checked:
        return None
    if not isinstance(checked, dict) or "_target_" not in checked:
        raise UserError(
            f"checkpoint {path}: `{key}` in its configuration is not a node that a training writes"
        )
    return checked


def _checked(node: Any, key: str, path: Path, trusted: tuple[str, ...]) -> Any:
    """Return a copy of `node` without interpolations and with trusted classes only."""
    if isinstance(node, dict):
        if "_target_" in node:
            locate(str(node["_target_"]), trusted)
        if special := [name for name in node if name != "_target_" and not str(name)[:1].isalpha()]:
            raise UserError(f"checkpoint {path}: `{key}.{special[0]}` in its configuration is not trusted")
        return {str(name): _checked(value, f"{key}.{name}", path, trusted) for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_checked(value, key, path, trusted) for value in node]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"checkpoint {path}: `{key}` in its configuration, {node!r}, is not trusted")
    return node
