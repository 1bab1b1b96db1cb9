"""Build objects from the configuration in a checkpoint, without Hydra.

Only classes of roiseg's decoders, decisions and extractor are built, so that a checkpoint from elsewhere
cannot call anything else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any, TypeVar

from roiseg.common.errors import UserError
from roiseg.common.types import check_value, option_types

T = TypeVar("T")
_TRUSTED = ("roiseg.decoders.", "roiseg.extractor.", "roiseg.inference.decision")


def rebuild(node: Any, **extra: Any) -> Any:
    """Build the object that a `_target_` dict describes, nested ones first.

    Args:
        node: `{"_target_": "roiseg....", ...}`, or a plain value, which is returned unchanged; with
            `_partial_` a partial of the class.
        extra: further keyword arguments of the outermost call.

    Raises:
        UserError: the target is not trusted, does not exist, or has other options.
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
    for key, value in arguments.items():
        check_value(value, hints.get(key, Any), f"the checkpoint's option `{path}.{key}`")
    try:
        if node.get("_partial_"):
            inspect.signature(found).bind_partial(**arguments, **extra)
            return functools.partial(found, **arguments, **extra)
        return found(**arguments, **extra)
    except TypeError as error:
        if "argument" not in str(error):  # an error in roiseg
            raise
        raise UserError(
            f"the checkpoint's options do not fit `{path}` of this version of roiseg ({error})"
        ) from None


def rebuild_as(kind: type[T], node: Any, **extra: Any) -> T:
    """Build an object, see `rebuild`, and check that it is a `kind`.

    Raises:
        UserError: it is another object; see also `rebuild`.
    """
    built = rebuild(node, **extra)
    if not isinstance(built, kind):
        raise UserError(f"a configuration builds {type(built).__name__}, not {kind.__name__}")
    return built


def locate(path: str, trusted: tuple[str, ...] = _TRUSTED) -> Any:
    """Import the class that a checkpoint names.

    Args:
        path: dotted path.
        trusted: prefixes of the allowed modules.

    Raises:
        UserError: it is in another module, does not exist, or is not a class defined there.
    """
    module, _, name = path.rpartition(".")
    if not module.startswith(trusted) or name.startswith("_"):
        raise UserError(f"the checkpoint asks for `{path}`, which is not part of a model: it is not trusted")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(
            f"the checkpoint needs `{path}`, which this version of roiseg does not have"
        ) from None
    # a class that the module imports from elsewhere is not trusted
    if not isinstance(found, type) or inspect.isabstract(found) or not found.__module__.startswith(trusted):
        raise UserError(f"the checkpoint asks for `{path}`, which is not part of a model: it is not trusted")
    return found
