"""What the processes of a run hold, together."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather(items: list[T]) -> list[T]:
    """The items of all processes, on every one of them; all must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
