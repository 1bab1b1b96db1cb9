"""The exception for mistakes that the user can fix."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input or configuration.

    Its message is one line: what is wrong, in which file and field, and what to do. Commands print it
    without a traceback and exit with code 2.
    """


class UnwritableError(UserError):
    """A file cannot be written: the disk is full, the folder is read-only, and the like."""


def missing_extra(what: str, extra: str) -> UserError:
    """Return the error of a feature whose optional dependencies, an extra of roiseg, are not installed."""
    return UserError(f"{what} needs the extra {extra}: pip install 'roiseg[{extra}]'")


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, perhaps a library's own, means that the machine or its GPU is out of memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    library = type(error).__module__.partition(".")[0] in ("torch", "onnxruntime", "cv2")
    return (library or isinstance(error, RuntimeError)) and _NO_MEMORY.search(str(error)) is not None


_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|unable to allocate|failed to allocate|out of memory"
    r"|not enough memory|insufficient memory|bad_alloc",
    re.IGNORECASE,
)


def disk_full(error: OSError) -> bool:
    """Tell whether the disk is full or the user's quota exceeded."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))


def unwritable_error(path: str | os.PathLike[str], cause: OSError) -> UnwritableError:
    """Return the error that names the file that cannot be written, the cause, and what to do."""
    if disk_full(cause):
        todo = "the disk is full: free some space or give another folder"
    else:
        todo = "give another folder, or make this one writable"
    return UnwritableError(f"{os.fspath(path)} cannot be written ({cause.strerror or cause}); {todo}")


def require_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise a UserError that names the nearest of `choices` if `value` is not among them."""
    known = list(choices)
    if value not in known:
        close = "; ".join(closest_matches(value, known) or known[:20])
        raise UserError(f"{option}: there is no `{value}` (nearest: {close})")


def require_any(names: str, *values: float) -> None:
    """Raise a UserError that names options if all their values are 0."""
    if not any(values):
        raise UserError(f"{names}: all are 0, give one a value above 0")


def closest_matches(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of `choices` most similar to `name`, best first (all if there are few)."""
    known = list(dict.fromkeys(choices))
    found = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    last_part = name.rsplit(".", 1)[-1].rsplit("/", 1)[-1]
    found += [c for c in known if last_part and last_part in c and c not in found]
    return found[:count] or (known if len(known) <= count else [])
