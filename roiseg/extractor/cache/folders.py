"""Extractors' folders in a feature cache: which prove to be ours, how large they are, how they go.

The cache may lie among files of the user's. A folder counts as an extractor's only where its `about.json`
tells an identity whose digest is the folder's name; it goes only where it holds entries and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import xxhash

from roiseg.common.files import is_leftover, remove_leftovers

log = logging.getLogger(__name__)

MAGIC = b"roisegF1"  # an entry begins so
ABOUT = "about.json"  # says what a folder holds, and by that what it must be called

_PART = re.compile("[0-9a-f]{2}")  # a folder of entries
_ENTRY = re.compile(r"[0-9a-f]+(\.[0-9a-f]{32}-\d+\.tmp)?")  # an entry, or one that is being written
_REMOVED = re.compile("removed-[0-9a-f]{32}")  # a folder's name while its files are deleted
_OUTDATED = 3600.0  # seconds after which a temporary file has no writer any more


def cache_folders(folder: Path) -> list[Path]:
    """Those of all extractors."""
    return [path for path in _entries(folder) if is_cache(path, path.name)]


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where another process is just removing it."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _about(folder: Path) -> dict[str, Any]:
    """What a folder says of itself; nothing where it is just being removed, or somebody else's."""
    try:
        content = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    known = {"file_bytes": int, "identity": str}
    fits = isinstance(content, dict) and all(type(content.get(key)) is kind for key, kind in known.items())
    return content if fits else {}


def is_cache(folder: Path, name: str) -> bool:
    """Does a folder's content prove that it is an extractor's, made under `name`?"""
    about = {} if folder.is_symlink() else _about(folder)
    return bool(about) and name == xxhash.xxh3_64_hexdigest(about["identity"].encode())


def remove_cache(folder: Path) -> None:
    """Remove an extractor's folder with all that other processes are writing to it just now."""
    if strange := strangers(folder):
        log.warning("feature cache: %s stays, %s is not of the cache", folder, strange[0])
        return
    aside = folder.with_name(f"removed-{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # another process was faster
        folder.rename(aside)
        _delete(aside)


def _delete(folder: Path) -> None:
    """Delete the entries of a folder, and it if nothing else is left; `about.json`, the proof, last."""
    for part in _entries(folder):
        if _PART.fullmatch(part.name) and not part.is_symlink():
            for path in _entries(part):
                if _is_entry(path):
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                part.rmdir()
    remove_leftovers(folder)
    if [path.name for path in _entries(folder)] == [ABOUT]:
        (folder / ABOUT).unlink(missing_ok=True)
        folder.rmdir()


def strangers(folder: Path) -> list[Path]:
    """What lies in an extractor's folder and is not of the cache."""
    strange = []
    for path in _entries(folder):
        if _PART.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            strange += [entry for entry in _entries(path) if not _is_entry(entry)]
        elif path.name != ABOUT and not is_leftover(path):
            strange.append(path)
    return strange


def _is_entry(path: Path) -> bool:
    """Do name and content prove that a file is an entry, or the beginning of one?"""
    if not _ENTRY.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        with open(path, "rb") as stream:
            head = stream.read(len(MAGIC))
    except FileNotFoundError:  # another process was faster
        return True
    except OSError:
        return False
    return head == MAGIC or (path.suffix == ".tmp" and MAGIC.startswith(head))


def opened_at(folder: Path) -> float:
    """When an extractor's folder was opened last; another process may have removed it by now."""
    try:
        return (folder / ABOUT).stat().st_mtime
    except OSError:
        return 0.0


def size_of(folder: Path) -> int:
    """Bytes of all files of an extractor's folder, which are all alike."""
    parts = [path for path in _entries(folder) if _PART.fullmatch(path.name)]
    try:
        return _about(folder).get("file_bytes", 0) * sum(len(os.listdir(part)) for part in parts)
    except OSError:  # it is just being removed, say
        return 0


def remove_outdated(folder: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote, and folders they removed."""
    for path in _entries(folder.parent):
        if _REMOVED.fullmatch(path.name):
            identity = _about(path).get("identity", "")
            if is_cache(path, xxhash.xxh3_64_hexdigest(identity.encode())):
                _delete(path)
    for part in _entries(folder):
        for path in _entries(part) if _PART.fullmatch(part.name) else [part]:
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _OUTDATED:
                    if path.suffix == ".tmp" and _is_entry(path):
                        path.unlink()
                    elif is_leftover(path):
                        shutil.rmtree(path, ignore_errors=True)
