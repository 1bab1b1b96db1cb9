"""What this program may write, replace and remove: one rule, kept here for every command.

A command never destroys what it did not make:

- An output is created new. An existing file is replaced only where this program wrote it for the same
  purpose and nobody has changed it since. Proof is its content: its digest is in the record beside it
  (`.roiseg_made`), or its format says so. A name proves nothing.
- A folder of results is new or empty when a run takes it. Within it that run may replace files.
- No output replaces an input of the same command, and none leaves its folder, once links and `..` are
  resolved.
- A file is removed only where it might be replaced.

`roiseg.common.files.atomic_path`, through which every file is written, asks here.
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

Proof = Callable[[Path], bool]  # does the content of an existing file prove that this program wrote it?

_RECORD = ".roiseg_made"
_MADE_BY = "roiseg: digests of the files it wrote here and may replace"
_KEPT = 2  # digests a file: a process may be killed between recording and replacing

_purpose = "python"
_inputs: set[Path] | None = None  # of the running command; None outside of commands
_folders: dict[Path, Path] = {}  # that this process may replace files in, as given and with links resolved


@contextmanager
def purpose(name: str) -> Iterator[None]:
    """Write for the command `name` while the block runs, and collect its inputs."""
    global _purpose, _inputs
    before = _purpose, _inputs
    _purpose, _inputs = name, set()
    try:
        yield
    finally:
        _purpose, _inputs = before


def note_input(path: Path) -> None:
    """Remember a file that the running command reads."""
    if _inputs is not None:
        _inputs.add(path.resolve())


def own(folder: Path) -> None:
    """Let this process replace files in a folder that it has made, or that is proved to be its run's."""
    _folders[folder.absolute()] = folder.resolve()


def inside(folder: Path, name: str | Path) -> Path:
    """The path `name` in an output folder.

    Raises:
        UserError: it leaves the folder, once links and `..` are resolved.
    """
    path = folder / name
    if not _place(path).is_relative_to(folder.resolve()):
        raise UserError(f"{name} lies outside the output folder {folder}: give a name within it")
    return path


def check_output(path: str | Path, proof: Proof | None = None) -> Path:
    """Make sure that a file may be written, as far as that is known before the work.

    Args:
        path: of the file.
        proof: see `Proof`; by default the record beside the file.

    Raises:
        UserError: something is there that is not to be replaced.
        UnwritableError: the folder cannot be made or written.
    """
    path = Path(path)
    check_folder(path.parent, f"{path}: folder")
    check_replaceable(path, proof)
    return path


def check_folder(folder: str | Path, what: str = "output folder") -> Path:
    """Make sure that a folder is there or can be made, and that files can be made in it; leaves nothing.

    Raises:
        UserError: a file is in the way.
        UnwritableError: the system does not let us write.
    """
    folder = Path(folder)
    deepest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not deepest.is_dir():
        raise UserError(f"{what} {folder} cannot be made, {deepest} is a file: give another one")
    try:
        with tempfile.TemporaryFile(dir=deepest):
            pass
    except OSError as error:
        raise unwritable_error(f"{what} {folder}", error) from None
    return folder


def check_replaceable(path: Path, proof: Proof | None = None) -> None:
    """Raise a UserError where something is at `path` that is not to be replaced."""
    place = _place(path)
    for given, real in _folders.items():
        if path.absolute().is_relative_to(given) and not place.is_relative_to(real):
            raise UserError(f"{path} lies outside the output folder {given}: give a name within it")
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise UserError(f"output {path} is a folder: give a file")
    if not is_ours(path, proof):
        raise UserError(
            f"output {path} exists, and roiseg.{_purpose} did not write it as it is: "
            "give another place, or remove it"
        )


def is_ours(path: Path, proof: Proof | None = None) -> bool:
    """May an existing file be replaced, or removed?"""
    if path.is_symlink() or not path.is_file():
        return False
    return in_own_folder(path) or (_place(path) not in (_inputs or ()) and (proof or recorded)(path))


def in_own_folder(path: Path) -> bool:
    """Does `path` lie in a folder of this run's?"""
    return any(_place(path).is_relative_to(folder) for folder in _folders.values())


def remove(path: Path, proof: Proof | None = None) -> None:
    """Remove a file if it is ours; leave it, and say so, if not."""
    if is_ours(path, proof):
        path.unlink(missing_ok=True)
    elif os.path.lexists(path):
        log.warning("%s stays: roiseg.%s did not write it as it is", path, _purpose)


def never(path: Path) -> bool:
    """The proof of outputs that are only created, never replaced."""
    return False


def recorded(path: Path) -> bool:
    """Does the record beside a file tell its content, and the purpose it is written for now?"""
    known = _read(path.parent).get(path.name)
    return isinstance(known, dict) and known.get(_purpose) is not None and _digest(path) in known[_purpose]


def record(path: Path, content: Path) -> None:
    """Enter the file that is about to become `path` in the record beside it."""
    digest = _digest(content)
    with locked(path.with_name(f"{_RECORD}.lock"), wait=True):
        if os.path.lexists(path.with_name(_RECORD)) and not _read(path.parent):
            return  # a file of somebody else's: what is not recorded is not replaced
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
    """Remove the record of a folder in which no file is left that it tells of."""
    if (files := _read(folder)) and not any(os.path.lexists(folder / name) for name in files):
        (folder / _RECORD).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, Any]:
    """The files of a folder's record; nothing where there is none."""
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


def _place(path: Path) -> Path:
    """Where a path lies: links and `..` of its folders resolved, the last part as it is."""
    path = path.absolute()
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def absent_folders(folder: Path) -> list[Path]:
    """A folder that is to be made, and those above it that are to be made with it; the deepest first."""
    return [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders in turn, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
