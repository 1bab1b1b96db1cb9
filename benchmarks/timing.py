"""Timing of alternatives in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of one way."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the runs in seconds."""
        return statistics.median(self.seconds)

    def spread(self) -> str:
        """Describe the fastest and slowest run relative to the median."""
        return f"{min(self.seconds) / self.median - 1:+.0%} {max(self.seconds) / self.median - 1:+.0%}"


def race(
    ways: Mapping[str, Callable[[], object]], rounds: int = 7, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time every way once a round, in turn, after one untimed round; what slows the machine slows all."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = clock()
            way()
            seconds[name].append(clock() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
