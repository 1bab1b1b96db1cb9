"""The extractors' folders in a feature cache: recognize, measure and remove them.

The cache may be in a folder with files of the user. A folder is an extractor's only if its `about.json`
holds an identity whose digest is the folder's name, and it is removed only if it holds nothing but entries.
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

import xxhash

from roiseg.common.files import is_leftover, open_regular, remove_leftovers, written_at

log = logging.getLogger(__name__)

MAGIC = b"roisegF1"  # an entry starts with it
ABOUT = "about.json"  # identity of the folder

_PART = re.compile("[0-9a-f]{2}")  # a folder of entries
_ENTRY = re.compile(r"[0-9a-f]+(\.[0-9a-f]{32}-\d+\.tmp)?")  # an entry, or one being written
_REMOVED = re.compile("removed-[0-9a-f]{32}")  # a folder's name while its files are deleted
_OUTDATED = 3600.0  # seconds after which a temporary file has no writer
_ABOUT_BYTES = 1_000_000  # more than any identity needs


def cache_folders(folder: Path) -> list[Path]:
    """Return the extractors' folders."""
    return [path for path in _entries(folder) if is_cache(path, path.name)]


def _entries(folder: Path) -> list[Path]:
    """List a folder; empty if another process is removing it."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _digest(folder: Path) -> str | None:
    """Return the digest of the identity in `about.json`; None if it is missing or not ours.

    Anyone may have written the file: nothing else in it is used.
    """
    try:
        with open_regular(folder / ABOUT) as stream:
            content = json.loads(stream.read(_ABOUT_BYTES))
        return xxhash.xxh3_64_hexdigest(content["identity"].encode())
    except (OSError, ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return None


def is_cache(folder: Path, name: str) -> bool:
    """Return whether a folder's content proves that it is an extractor's folder of this name."""
    return not folder.is_symlink() and _digest(folder) == name


def remove_cache(folder: Path) -> None:
    """Remove an extractor's folder, also while other processes write to it."""
    if foreign := foreign_files(folder):
        log.warning("feature cache: %s is kept, %s is not part of the cache", folder, foreign[0])
        return
    aside = folder.with_name(f"removed-{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # another process was faster
        folder.rename(aside)
    _delete(aside)


def _delete(folder: Path) -> None:
    """Delete the entries of a folder, `about.json` last, and the folder if nothing else is left.

    Other processes may do the same at the same time.
    """
    for part in _entries(folder):
        if _PART.fullmatch(part.name) and not part.is_symlink():
            for path in _entries(part):
                if _is_entry(path):
                    with contextlib.suppress(OSError):
                        path.unlink()
            with contextlib.suppress(OSError):
                part.rmdir()
    remove_leftovers(folder)
    if [path.name for path in _entries(folder)] == [ABOUT]:
        with contextlib.suppress(OSError):
            (folder / ABOUT).unlink()
            folder.rmdir()


def foreign_files(folder: Path) -> list[Path]:
    """Return the files in an extractor's folder that are not part of the cache."""
    foreign = []
    for path in _entries(folder):
        if _PART.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            foreign += [entry for entry in _entries(path) if not _is_entry(entry)]
        elif path.name != ABOUT and not is_leftover(path) and os.path.lexists(path):
            foreign.append(path)  # still there: other processes move their temporary folders away
    return foreign


def _is_entry(path: Path) -> bool:
    """Return whether name and content prove that a file is an entry, possibly incomplete."""
    if not _ENTRY.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        with open_regular(path) as stream:
            head = stream.read(len(MAGIC))
    except FileNotFoundError:  # another process was faster
        return True
    except OSError:
        return False
    return head == MAGIC or (path.suffix == ".tmp" and MAGIC.startswith(head))


def opened_at(folder: Path) -> int:
    """Return when an extractor's folder was last opened; 0 if it has been removed."""
    return written_at(folder / ABOUT)


def size_of(folder: Path) -> int:
    """Return the bytes of all entries of a folder, which have the same size.

    One entry per part is measured: a damaged one may be shorter.
    """
    count = size = 0
    for part in _entries(folder):
        if _PART.fullmatch(part.name):
            with contextlib.suppress(OSError):  # it is being removed
                entries = [path for path in os.scandir(part) if _ENTRY.fullmatch(path.name)]
                count += len(entries)
                size = max([size, *(path.stat(follow_symlinks=False).st_size for path in entries[:1])])
    return count * size


def remove_outdated(folder: Path) -> None:
    """Remove temporary files and half-removed folders of killed processes."""
    for path in _entries(folder.parent):
        if _REMOVED.fullmatch(path.name) and not path.is_symlink() and _digest(path):
            _delete(path)
    for part in _entries(folder):
        for path in _entries(part) if _PART.fullmatch(part.name) else [part]:
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _OUTDATED:
                    if path.suffix == ".tmp" and _is_entry(path):
                        path.unlink()
                    elif is_leftover(path):
                        shutil.rmtree(path, ignore_errors=True)
