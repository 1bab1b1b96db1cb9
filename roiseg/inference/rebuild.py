"""Objects from the plain configuration a checkpoint carries, without Hydra.

Only classes and functions of roiseg itself are built: a checkpoint from elsewhere must not be able to
call anything else.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from roiseg.common.errors import UserError


def rebuild(node: Any, **extra: Any) -> Any:
    """Build what a `_target_` dict describes, nested ones first.

    Args:
        node: `{"_target_": "roiseg....", ...}`, or any plain value, which is returned as it is.
        extra: further keyword arguments of the outermost call.

    Raises:
        UserError: a target outside roiseg, or one that does not exist.
    """
    if isinstance(node, list):
        return [rebuild(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: rebuild(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return arguments
    target = _locate(str(node["_target_"]))
    call = functools.partial(target, **arguments, **extra)
    return call if node.get("_partial_") else call()


def _locate(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module.startswith("roiseg.") or name.startswith("_"):
        raise UserError(f"the checkpoint asks for `{path}`, which is not a part of roiseg: it is not trusted")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(
            f"the checkpoint needs `{path}`, which this version of roiseg does not have"
        ) from None
