"""Types and ranges of options as annotations, and the one check of a value against its annotation.

`depth: NonNegativeInt` says what `depth` may be; the constructor does not check it again. Values are checked
where they come from a file: a configuration (`roiseg.config.validation`), a checkpoint, a record.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import is_typeddict

from roiseg.common.errors import UserError

T = TypeVar("T")

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[Sequence[PositiveInt], Field(min_length=2, max_length=2)]  # (height, width)
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # that numpy takes

STRICT = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)


def _ordered(values: Sequence[float]) -> Sequence[float]:
    if values[0] > values[1]:
        raise ValueError("be [low, high] with low <= high")
    return values


Range = Annotated[Sequence[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


def option_types(target: Any, modules: tuple[str, ...] = ("roiseg.",)) -> dict[str, Any]:
    """Return the annotations of the parameters of a class or function.

    A class passes the options that it does not name itself on to the class it extends.

    Args:
        target: the class or function.
        modules: how the names of the modules begin whose classes count.
    """
    if not inspect.isclass(target):
        return typing.get_type_hints(target, include_extras=True)
    hints: dict[str, Any] = {}
    for kind in reversed(target.__mro__):
        if kind.__module__.startswith(modules):
            with contextlib.suppress(NameError):  # a type of an extra that is not installed
                hints |= typing.get_type_hints(kind.__init__, include_extras=True)  # type: ignore[misc]
    return hints


def check_value(value: Any, hint: Any, name: str) -> None:
    """Check a plain value against an annotation; a whole number is a number, nothing else is converted.

    Args:
        name: of the value, for the message.

    Raises:
        UserError: the value is of another type or out of range.
    """
    if inspect.isclass(hint) and hint.__module__.startswith("roiseg.") and not is_typeddict(hint):
        if not isinstance(value, hint):
            raise UserError(f"{name} is {value!r:.200}: it must be an instance of {hint.__name__}")
        return
    try:
        TypeAdapter(hint, config=STRICT).validate_python(_as_utf8(value))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        item = "".join(f"[{part}]" for part in problems[0]["loc"] if isinstance(part, int))
        null = ["null"] if type(None) in typing.get_args(hint) else []
        raise UserError(
            f"{name} is {value!r:.200}: {f'its item {item}' if item else 'it'} must {_must(problems, null)}"
        ) from None


def check_record(record: Any, adapter: TypeAdapter[T], where: str) -> T:
    """Return the fields of a file's record, checked against a typed dict.

    Raises:
        UserError: names the record by `where`, and the field.
    """
    try:
        return adapter.validate_python(record)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        field = first["loc"][0] if first["loc"] else ""
        if not field:
            problem = " is not an object"
        elif first["type"] == "missing":
            problem = f" has no `{'.'.join(map(str, first['loc']))}`"
        else:
            must = _must([first, *(other for other in others if other["loc"][0] == field)])
            problem = f": `{field}` is {record[field]!r:.200}, it must {must}"
        raise UserError(f"{where}{problem}") from None


def _must(problems: Sequence[Any], others: Sequence[str] = ()) -> str:
    """Join what pydantic wants of a value, and other choices: "be a valid integer or null"."""
    texts = (problem["msg"].partition(" after validation")[0] for problem in problems)
    wanted = list(dict.fromkeys(re.sub(r"^(\w+ should|Value error,) ", "", text) for text in texts))
    return " or ".join([wanted[0], *(each.removeprefix("be ") for each in (*wanted[1:], *others))])


def _as_utf8(value: Any) -> Any:
    """Replace what is not UTF-8 in strings, as file names may hold and pydantic refuses."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_as_utf8(key): _as_utf8(entry) for key, entry in value.items()}
    return [_as_utf8(entry) for entry in value] if isinstance(value, list) else value


def builds_object(value: Any) -> bool:
    """Tell whether `value` holds a `_target_`, so that the parameter gets an object and not this dict."""
    if isinstance(value, dict):
        return "_target_" in value or any(builds_object(v) for v in value.values())
    return isinstance(value, list) and any(builds_object(v) for v in value)
