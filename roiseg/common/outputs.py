"""The rule, for every command, on what may be written, replaced and removed.

A command never destroys what it did not create:

- An existing file is replaced only if roiseg wrote it for the same purpose and it has not changed since.
  The proof is its content: its digest is in the record beside it (`.roiseg_made`), or its format proves it.
  A name proves nothing.
- A results folder is new or empty when a run starts. Within it, the run may replace files.
- No output replaces an input of the same command or leaves its folder, with links and `..` resolved.
- A file is removed only if it may be replaced.

Every file is written through `roiseg.common.files.atomic_path`, which enforces the rule.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from roiseg.common.errors import UserError, unwritable_error
from roiseg.common.locks import locked

log = logging.getLogger(__name__)

Proof = Callable[[Path], bool]  # whether the content of an existing file proves that roiseg wrote it

_RECORD = ".roiseg_made"
_MADE_BY = "roiseg: digests of the files it wrote here and may replace"
_KEPT = 2  # digests per file: a process may be killed between recording and replacing

_purpose = "python"
_inputs: set[Path] | None = None  # of the running command; None outside commands
_folders: dict[Path, Path] = {}  # in which this process may replace files: as given -> with links resolved


@contextmanager
def purpose(name: str) -> Iterator[None]:
    """Set the purpose of files to the command `name` during the block, and collect its inputs."""
    global _purpose, _inputs
    before = _purpose, _inputs
    _purpose, _inputs = name, set()
    try:
        yield
    finally:
        _purpose, _inputs = before


def note_input(path: Path) -> None:
    """Register a file that the running command reads."""
    if _inputs is not None:
        _inputs.add(path.resolve())


def own(folder: Path) -> None:
    """Allow this process to replace files in a folder that belongs to its run."""
    _folders[folder.absolute()] = folder.resolve()


def inside(folder: Path, name: str | Path) -> Path:
    """Return the path `name` in an output folder.

    Raises:
        UserError: it leaves the folder, once links and `..` are resolved.
    """
    path = folder / name
    if not _resolved(path).is_relative_to(folder.resolve()):
        raise UserError(f"{name} lies outside the output folder {folder}: give a name within it")
    return path


def check_output(path: str | Path, proof: Proof | None = None) -> Path:
    """Check that a file may be written, as far as that is known beforehand.

    Args:
        proof: see `Proof`; the record beside the file by default.

    Raises:
        UserError: a file exists that must not be replaced.
        UnwritableError: the folder cannot be created or written.
    """
    path = Path(path)
    check_folder(path.parent, f"{path}: folder")
    check_replaceable(path, proof)
    return path


def check_folder(folder: str | Path, what: str = "output folder") -> Path:
    """Check that a folder exists or can be created, and is writable, without leaving anything behind.

    Raises:
        UserError: a file is in the way.
        UnwritableError: the folder is not writable.
    """
    folder = Path(folder)
    deepest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not deepest.is_dir():
        raise UserError(f"{what} {folder} cannot be created, {deepest} is a file: give another one")
    try:
        with tempfile.TemporaryFile(dir=deepest):
            pass
    except OSError as error:
        raise unwritable_error(f"{what} {folder}", error) from None
    return folder


def check_replaceable(path: Path, proof: Proof | None = None) -> None:
    """Raise a UserError if something exists at `path` that must not be replaced."""
    real_path = _resolved(path)
    for given, real in _folders.items():
        if path.absolute().is_relative_to(given) and not real_path.is_relative_to(real):
            raise UserError(f"{path} lies outside the output folder {given}: give a name within it")
    while (state := _state(path)) and not is_ours(path, proof):
        if state != _state(path):  # another process replaced or removed it meanwhile
            continue
        if path.is_dir():
            raise UserError(f"output {path} is a folder: give a file")
        raise UserError(
            f"output {path} exists, and roiseg.{_purpose} did not write it as it is: "
            "give another place, or remove it"
        )


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another; None if there is none."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def is_ours(path: Path, proof: Proof | None = None) -> bool:
    """Tell whether an existing file may be replaced or removed."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return in_own_folder(path) or (_resolved(path) not in (_inputs or ()) and (proof or recorded)(path))
    except OSError:  # not readable, or another process has removed it
        return False


def in_own_folder(path: Path) -> bool:
    """Tell whether `path` is in a folder of this run."""
    return any(_resolved(path).is_relative_to(folder) for folder in _folders.values())


def remove(path: Path, proof: Proof | None = None) -> None:
    """Remove a file if it is ours, else warn."""
    if is_ours(path, proof):
        path.unlink(missing_ok=True)
    elif os.path.lexists(path):
        log.warning("%s stays: roiseg.%s did not write it as it is", path, _purpose)


def never(path: Path) -> bool:
    """Return False: the proof of outputs that are only created, never replaced."""
    return False


def recorded(path: Path) -> bool:
    """Tell whether the record beside a file has its content and the current purpose."""
    digest = _digest(path)  # first: another process records a file before it replaces this one
    known = _read(path.parent).get(path.name)
    return isinstance(known, dict) and digest in (known.get(_purpose) or ())


def record(path: Path, content: Path) -> None:
    """Add the file that is about to become `path` to the record beside it."""
    digest = _digest(content)
    with locked(path.with_name(f"{_RECORD}.lock"), wait=True):
        if os.path.lexists(path.with_name(_RECORD)) and not _read(path.parent):
            return  # not our record; what is not recorded is not replaced
        files = _read(path.parent)
        before = files.get(path.name, {}).get(_purpose, [])
        files[path.name] = {_purpose: [*before, digest][-_KEPT:]}
        handle, temporary = tempfile.mkstemp(prefix=_RECORD, dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                json.dump({"made_by": _MADE_BY, "files": files}, stream, indent=1)
            os.replace(temporary, path.with_name(_RECORD))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def remove_record(folder: Path) -> None:
    """Remove the record of a folder in which none of its files exist."""
    if (files := _read(folder)) and not any(os.path.lexists(folder / name) for name in files):
        (folder / _RECORD).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, Any]:
    """Return the files of a folder's record; empty if there is none."""
    try:
        content = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("made_by") != _MADE_BY:
        return {}
    files = content.get("files")
    return files if isinstance(files, dict) else {}


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _resolved(path: Path) -> Path:
    """Return a path with links and `..` of its folders resolved, and the last part unchanged."""
    path = path.absolute()
    try:
        return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    except RuntimeError:  # Python before 3.13
        raise UserError(f"{path} is a link that leads to itself: give another path") from None


def absent_folders(folder: Path) -> list[Path]:
    """Return the missing folders on the way to `folder`, deepest first."""
    return [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders in turn while they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
