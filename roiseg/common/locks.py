"""Locks between processes that share a file system."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from roiseg.common.errors import UserError

log = logging.getLogger(__name__)

_HOLDER = re.compile(rb"(process \d+ on \S+)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)


class LockedError(Exception):
    """Another process holds the lock; the message names it."""


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`, created if missing, while the block runs.

    The lock is released when the process ends, even if it is killed; forked processes do not inherit it. On a
    file system without locks the block runs unlocked.

    Args:
        wait: wait for another holder, and remove the file in the end.

    Raises:
        LockedError: another process holds the lock and `wait` is false.
        UserError: the file has other content than a lock has.
        OSError: the file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_lock(path)
    lock = FileLock(path, poll_interval=0.01)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = check_lock(path) or "another process"  # one that has not written its name yet
        if not wait:
            raise LockedError(holder) from None
        log.info("waiting for %s, which holds %s", holder, path)
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.info("%s: this file system has no locks (%s)", path, error.strerror)
    try:
        if lock.is_locked:
            with suppress(OSError):  # a full disk: the lock works nevertheless
                path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        if wait:
            path.unlink(missing_ok=True)  # before the release: a waiting process finds no file and creates it
        lock.release()


def check_lock(path: Path) -> str:
    """Return the holder that a lock file names; "" if there is no file or it names none.

    Raises:
        UserError: the file has other content than a lock has.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except IsADirectoryError:
        content = b"a folder"
    if not _HOLDER.fullmatch(content):
        raise UserError(f"{path} is not a lock file of roiseg, which needs that name: rename it")
    return content.decode()
