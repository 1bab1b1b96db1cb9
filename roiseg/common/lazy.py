"""Sequences of large arrays that are computed on access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from numpy.typing import NDArray


class LazyArrays(Sequence[NDArray[Any]]):
    """N arrays, each computed on access; the first ones that fit into `keep` bytes together are kept.

    Args:
        make: computes array 0..N - 1 deterministically.
        keep: bytes of arrays to keep.
    """

    def __init__(self, count: int, make: Callable[[int], NDArray[Any]], keep: int = 0) -> None:
        self._count = count
        self._make = make
        self._room = keep
        self._kept: dict[int, NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | list[NDArray[Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        number = range(self._count)[index]
        if number in self._kept:
            return self._kept[number]
        made = self._make(number)
        if made.nbytes <= self._room:
            self._room -= made.nbytes
            self._kept[number] = made
        return made

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return map(self.__getitem__, range(self._count))
