"""File systems of a private mount namespace: small disks, read-only folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INSIDE = "ROISEG_PRIVATE_MOUNTS"


def command() -> list[str] | None:
    """Return the command prefix for private mounts; None if they are not allowed."""
    tools = shutil.which("unshare"), shutil.which("mount")
    if None in tools:
        return None
    for options in ("-m", "-Urm"):
        test = ["unshare", options, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
        if subprocess.run(test, capture_output=True, check=False).returncode == 0:
            return ["unshare", options]
    return None


def enter(module: str) -> None:
    """Start this program once more in a private mount namespace, unless it is in one.

    Raises:
        SystemExit: with code 77 where that is not allowed.
    """
    if os.environ.get(_INSIDE):
        return
    before = command()
    if before is None:
        sys.stderr.write("needs `unshare` and the right to mount in a namespace of its own\n")
        raise SystemExit(77)
    os.environ[_INSIDE] = "1"
    arguments = [*before, sys.executable, "-m", module, *sys.argv[1:]]
    os.execvp(arguments[0], arguments)


@contextmanager
def small_disk(folder: Path, size: int, files: int = 10_000) -> Iterator[None]:
    """Mount a file system of `size` bytes (whole pages) and a number of files at `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size},nr_inodes={files + 1}", "tmpfs"):
        yield


def grow(folder: Path, size: int, files: int = 10_000) -> None:
    """Give the file system at `folder` more room."""
    _mount("-o", f"remount,size={size},nr_inodes={files + 1}", folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make `folder` read-only, even for root."""
    with _mounted(folder, "--bind", folder):
        _mount("-o", "remount,ro,bind", folder)
        yield


@contextmanager
def _mounted(folder: Path, *arguments: str | Path) -> Iterator[None]:
    _mount(*arguments, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)
