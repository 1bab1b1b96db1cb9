"""Objects from the plain configuration a checkpoint carries, without Hydra.

Only classes that roiseg's decoders and extractor define are built: a checkpoint from elsewhere must not be
able to call anything else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

from roiseg.common.errors import UserError
from roiseg.common.types import builds_object, check_value, option_types

_TRUSTED = ("roiseg.decoders.", "roiseg.extractor.")


def rebuild(node: Any, **extra: Any) -> Any:
    """Build what a `_target_` dict describes, nested ones first.

    Args:
        node: `{"_target_": "roiseg....", ...}`, or any plain value, which is returned as it is; with
            `_partial_` the class is returned with its options, to be called later.
        extra: further keyword arguments of the outermost call.

    Raises:
        UserError: a target that is not a class of these, or does not exist, or wants other options.
    """
    if isinstance(node, list):
        return [rebuild(item) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: rebuild(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return arguments
    path = str(node["_target_"])
    found = locate(path)
    hints = option_types(found)
    for key, value in node.items():
        if not builds_object(value):
            check_value(value, hints.get(key, Any), f"the checkpoint's option `{path}.{key}`")
    try:
        if node.get("_partial_"):
            inspect.signature(found).bind_partial(**arguments, **extra)
            return functools.partial(found, **arguments, **extra)
        return found(**arguments, **extra)
    except TypeError as error:
        if "argument" not in str(error):  # an error of the program itself
            raise
        raise UserError(
            f"the checkpoint's options do not fit `{path}` of this version of roiseg ({error})"
        ) from None


def locate(path: str, trusted: tuple[str, ...] = _TRUSTED) -> Any:
    """The class a checkpoint names.

    Args:
        path: dotted, with its module.
        trusted: how the names of the modules begin that it may be in.

    Raises:
        UserError: it is in another module, does not exist, or is no class defined there.
    """
    module, _, name = path.rpartition(".")
    if not module.startswith(trusted) or name.startswith("_"):
        raise UserError(f"the checkpoint asks for `{path}`, which no model is made of: it is not trusted")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(
            f"the checkpoint needs `{path}`, which this version of roiseg does not have"
        ) from None
    # what a module imports from elsewhere is not roiseg's own
    if not isinstance(found, type) or inspect.isabstract(found) or not found.__module__.startswith(trusted):
        raise UserError(f"the checkpoint asks for `{path}`, which no model is made of: it is not trusted")
    return found
