"""Wrong types in a configuration, found before anything is built."""

from __future__ import annotations

import contextlib
import inspect
import math
import typing
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object
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
