"""Downloads that resume, retry, and are verified."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from roiseg.common.console import console, track
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.common.outputs import Proof, never, record


def extract(archive: Path, members: Mapping[str, Path], proof: Proof | None = never) -> int:
    """Extract members of an archive, skipping existing files of the right size.

    Args:
        proof: allows replacing a file of another size.

    Returns:
        The number of files written.

    Raises:
        UserError: the archive is broken, lacks a member, or has a member that could leave its folder.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            listing = {info.filename: info for info in zipped.infolist()}
            if unsafe := next((info.filename for info in zipped.infolist() if _is_unsafe(info)), None):
                raise UserError(f"{archive} has the unsafe member {unsafe!r}; nothing was unpacked")
            if missing := [name for name in members if name not in listing]:
                raise UserError(
                    f"{archive} lacks {len(missing)} of {len(members)} members, the first {missing[0]}"
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
            f"{archive} is not a valid zip archive ({error}): remove it and run prepare again"
        ) from None


def _is_there(info: zipfile.ZipInfo, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _is_unsafe(info: zipfile.ZipInfo) -> bool:
    name = info.orig_filename
    leaves = name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts
    return leaves or bool(re.match("[A-Za-z]:", name)) or stat.S_ISLNK(info.external_attr >> 16)


ATTEMPTS = 5  # in a row without progress
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 18

_FINAL = range(400, 500)  # status codes that a retry does not change
_MIRROR = "set base_url to a mirror, or use a COCO 2017 folder that you have with source=DIR"


def remote_size(url: str) -> int:
    """Return the size of the file at `url` in bytes; 0 if unknown.

    Raises:
        UserError: the file does not exist, or the server cannot be reached.
    """
    try:
        with _open(url, "HEAD") as response:
            return int(response.headers.get("Content-Length") or 0)
    except HTTPError as error:
        if error.code in (405, 501):
            return 0
        raise _refused(url, error, _MIRROR) from None
    except (OSError, HTTPException) as error:
        raise UserError(
            f"cannot reach {urlsplit(url).netloc} ({_reason(error)}): check network and proxy, or {_MIRROR}"
        ) from None


def fetch(url: str, path: Path, checksum: str, remedy: str = _MIRROR) -> None:
    """Download `url` to `path` through `<path>.part`, resuming an earlier attempt.

    Args:
        checksum: its MD5 or SHA-256, hexadecimal.
        remedy: what the user can do where another attempt does not help.

    Raises:
        UserError: the server refuses or cannot be reached, or the checksum differs.
    """
    if path.exists():
        _verify(path, path, checksum, f"remove {path}, and run prepare again")
        return
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, furthest = 0, _size(part)
    console.print(
        f"downloading {url}" + (f", resuming at {furthest / 1e6:.1f} MB" if furthest else ""), soft_wrap=True
    )
    while True:
        try:
            _receive(url, part)
            break
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code in _FINAL:
                raise _refused(url, error, remedy) from None
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures == ATTEMPTS:
                raise UserError(
                    f"download of {url} stopped at {furthest / 1e6:.1f} MB ({_reason(error)}): "
                    f"run the same command again to resume; check network and proxy, or {remedy}"
                ) from None
            wait = 2**failures - 1
            console.print(f"connection lost ({_reason(error)}); retrying in {wait} s", soft_wrap=True)
            time.sleep(wait)
    _verify(part, path, checksum, f"the download was removed: run prepare again, or {remedy}")
    record(path, part)
    part.replace(path)


def transfer_bar() -> Progress:
    """Return a progress display of bytes, speed and time left."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *columns, console=console, transient=True)


def _receive(url: str, part: Path) -> None:
    """Download the rest of `part`; start over if the server does not support ranges."""
    start = _size(part)
    try:
        response = _open(url, "GET", start)
    except HTTPError as error:
        if error.code == 416 and start:  # nothing beyond `start`: complete, or rejected by the checksum
            return
        raise
    with response, transfer_bar() as bar:
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise OSError("the server sent a different range than requested")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        task = bar.add_task(part.stem, total=total, completed=start)
        with part.open("ab" if start else "wb") as stream:
            while block := response.read1(BLOCK):
                _write(stream, block)
                bar.advance(task, len(block))
    if total is not None and _size(part) < total:
        raise OSError("connection closed early")


def _write(stream: BinaryIO, block: bytes) -> None:
    try:
        stream.write(block)
    except OSError as error:  # not a lost connection
        raise UserError(f"cannot write {stream.name}: {error.strerror}") from None


def _verify(file: Path, target: Path, checksum: str, remedy: str) -> None:
    name = "sha256" if len(checksum) == 64 else "md5"
    digest = hashlib.new(name, usedforsecurity=False)
    with transfer_bar() as bar, file.open("rb") as stream:
        task = bar.add_task(f"verifying {target.name}", total=_size(file))
        while block := stream.read(1 << 20):
            digest.update(block)
            bar.advance(task, len(block))
    if digest.hexdigest() == checksum.lower():
        return
    if file != target:
        file.unlink()
    raise UserError(f"{target.name} has {name} {digest.hexdigest()} instead of {checksum}: {remedy}")


def _open(url: str, method: str, start: int = 0) -> HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"base_url: {url} is not a web address: it must start with http:// or https://")
    headers = {"User-Agent": "roiseg", **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 (checked above)
    response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    return response


def _refused(url: str, error: HTTPError, remedy: str) -> UserError:
    return UserError(f"{url}: the server answers {error.code} {error.reason}; {remedy}")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
