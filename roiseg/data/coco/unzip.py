"""Chosen members of a zip archive, each whole or absent."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.common.outputs import Proof, never


def extract(archive: Path, members: Mapping[str, Path], proof: Proof | None = never) -> int:
    """Write members of an archive to the given paths; those that are there with the right size are skipped.

    Args:
        archive: the zip file.
        members: names in the archive, and where they go.
        proof: what allows to replace a file of another size.

    Returns:
        The number of files written.

    Raises:
        UserError: the archive is broken, lacks a member, or has any member that could leave its folder.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            listing = {info.filename: info for info in zipped.infolist()}
            if unsafe := next((info.filename for info in zipped.infolist() if _is_unsafe(info)), None):
                raise UserError(f"{archive} has the unsafe member {unsafe!r}; nothing was unpacked")
            if absent := [name for name in members if name not in listing]:
                raise UserError(
                    f"{archive} lacks {len(absent)} of {len(members)} members, the first {absent[0]}"
                )
            todo = [
                (listing[name], path) for name, path in members.items() if not _is_there(listing[name], path)
            ]
            for info, path in track(todo, f"unpacking {archive.name}", len(todo)):
                with (
                    atomic_path(path, proof) as temporary,
                    zipped.open(info) as packed,
                    temporary.open("wb") as unpacked,
                ):
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            return len(todo)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{archive} is not a proper zip archive ({error}): remove it and run prepare again"
        ) from None


def _is_there(info: zipfile.ZipInfo, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _is_unsafe(info: zipfile.ZipInfo) -> bool:
    name = info.orig_filename
    leaves = name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts
    return leaves or bool(re.match("[A-Za-z]:", name)) or stat.S_ISLNK(info.external_attr >> 16)
