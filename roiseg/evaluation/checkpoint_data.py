"""The data configuration in a checkpoint, which is not trusted: the file may come from anywhere.

It may name files to read, numbers, and classes of the one roiseg module that a node is meant for; nothing
that writes, and nothing that calls other code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roiseg.common.errors import UserError
from roiseg.inference.rebuild import locate

_VALUES = (
    "train_annotations", "train_images", "val_annotations", "val_images", "category_id", "crowd",
    "min_roi_size", "metric_size", "val_batch_size",
)  # fmt: skip


def trusted_values(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the files and numbers of the data set, as options of `data`.

    Args:
        config: the checkpoint's configuration.
        path: the checkpoint, for messages.

    Raises:
        UserError: a value is not trusted.
    """
    data = config.get("data") or {}
    return {key: _checked(data[key], f"data.{key}", path, ()) for key in _VALUES if key in data}


def trusted_node(config: dict[str, Any], key: str, module: str, path: Path) -> dict[str, Any] | None:
    """Return a node of the configuration; None if it is missing.

    Args:
        config: the checkpoint's configuration.
        key: dotted key, such as `data.folds`.
        module: the only module whose classes it may use, such as `roiseg.data.folds`.
        path: the checkpoint, for messages.

    Raises:
        UserError: a value is not trusted.
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
