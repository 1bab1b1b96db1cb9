"""Locks among processes that share a file system."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from roiseg.common.errors import UserError

log = logging.getLogger(__name__)

_TAKEN = (errno.EACCES, errno.EAGAIN)
_HOLDER = re.compile(r"(process \d+ on \S+)?")


class LockedError(Exception):
    """Another process holds the lock; the message names it."""


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock that is the file `path` (made if absent) while the block runs.

    The system lets go of it when the process dies, however it does, and loader processes do not inherit it: a
    POSIX record lock, which NFS knows, too. Within one process it locks nobody out. On a file system that has
    no locks every process goes on.

    Args:
        path: of the lock; nothing else may open this file. One with other content is not touched.
        wait: for another process that holds it. The file is removed in the end, else it stays.

    Raises:
        LockedError: another process holds it, and `wait` is false.
        UserError: a file of that name is no lock.
        OSError: the file cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as stream:
            _take(stream, path, wait)
            if not _is_still(path, stream):  # who held it has removed it
                continue
            stream.seek(0)
            if not _HOLDER.fullmatch(stream.read(1000)):  # of a killed process, or empty
                raise UserError(f"{path} is not a lock of roiseg's, which needs that name: rename it")
            with suppress(OSError):  # the disk is full: it is held all the same
                os.ftruncate(stream.fileno(), 0)
                os.write(stream.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                stream.truncate(0)
                if wait:
                    path.unlink(missing_ok=True)
            return


def _take(stream: IO[str], path: Path, wait: bool) -> None:
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            log.info("%s: this file system has no locks (%s)", path, error.strerror)
            return
        stream.seek(0)
        holder = stream.read(200).strip() or "another process"
        if not wait:
            raise LockedError(holder) from None
        log.info("waiting for %s, which is at work on %s", holder, path.parent)
        fcntl.lockf(stream, fcntl.LOCK_EX)


def _is_still(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
