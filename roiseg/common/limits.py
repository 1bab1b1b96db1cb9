"""Limits on the cost of a file, an image or a request, and of this process's memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from roiseg.common.errors import UserError

MAX_PIXELS = 100_000_000  # of an image or frame, and of an image described by annotations
MAX_FRAMES = 10_000_000  # of a video according to its header: 46 hours at 60 per second
MAX_BOXES = 2_000  # per image, unless predict's max_boxes= is given
MASK_BYTES = 256_000_000  # of image-size masks kept in memory; others are computed on access
STACK_BYTES = 4_000_000_000  # of masks stacked into one [N, H, W] array
OUTLINE = 2_000_000  # total length of one instance's polygons in pixels
MAX_RESAMPLES = 1_000_000  # of a bootstrap
PAGE_BOXES = 500  # per request to the page
PAGE_PIXELS = 1_000_000_000  # total area of the boxes of one request
PAGE_IMAGES = 500_000_000  # bytes of the decoded images that the page keeps, beside the newest
PAGE_ANSWERS = 1_000_000_000  # bytes of the answers that are being sent, if there are several
PAGE_CONNECTIONS = 32  # simultaneous
IDLE_SECONDS = 30.0  # until a connection without progress is closed


class TooMuch(UserError):
    """An image exceeds a limit, while others do not; `on_error=skip` skips it."""


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
