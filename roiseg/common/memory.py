"""The memory limit of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Return the bytes of memory this process may use: the limit of machine, container or job."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """Yield the limits of this process's control groups (v1 and v2); in a container they are at the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _GROUPS / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            for folder in (root, root / path.lstrip("/")):
                try:
                    yield int((folder / name).read_text())
                except (OSError, ValueError):  # no such file, or "max"
                    continue
