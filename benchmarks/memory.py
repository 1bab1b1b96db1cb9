"""Memory of processes as Linux counts it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from roiseg.common.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes). Pages that several processes share count in part for each (PSS)."""

    resident: float  # all pages, shared ones in full
    own: float  # anonymous: what the program allocated
    mapped: float  # pages of files, which the system may drop at any time
    peak: float  # peak resident size

    @staticmethod
    def of(pid: int | str = "self") -> Memory:
        """Measure a process, this one by default (`/proc/PID/smaps_rollup` and `status`).

        Raises:
            UserError: this is not Linux, or a kernel older than 5.9.
        """
        try:
            rollup, status = _read(f"/proc/{pid}/smaps_rollup"), _read(f"/proc/{pid}/status")
            return Memory(rollup["Rss"], rollup["Pss_Anon"], rollup["Pss_File"], status["VmHWM"])
        except (OSError, KeyError):
            raise UserError("memory is measured on Linux 5.9 or newer only") from None

    @staticmethod
    def with_children() -> Memory:
        """Measure this process and its workers together."""
        all_ = [Memory.of(), *(Memory.of(child.pid or 0) for child in multiprocessing.active_children())]
        return Memory(
            *(sum(getattr(m, name) for m in all_) for name in ("resident", "own", "mapped", "peak"))
        )


def _read(path: str) -> dict[str, float]:
    """Read the lines `Name: N kB` of a file, in MB."""
    found = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[name] = int(rest.split()[0]) * 1024 / 1e6
    return found


def fresh(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process that has only done the imports."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()
