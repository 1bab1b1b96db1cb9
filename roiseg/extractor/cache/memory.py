"""Features in the memory of the training process, on the device that computed them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from roiseg.common.errors import out_of_memory
from roiseg.common.limits import memory_limit
from roiseg.extractor.cache.base import GB, CacheKey, CacheResult, FeatureCache, shared
from roiseg.extractor.cache.codec import Codec, Shape

log = logging.getLogger(__name__)


class MemoryCache(FeatureCache):
    """Keeps features until the run ends, in GPU memory if they were computed there.

    A shared table tells the loader processes which features are cached.

    Args:
        codec, budget_gb: see `FeatureCache`.
    """

    def __init__(self, codec: Codec, budget_gb: PositiveFloat = 4.0) -> None:
        super().__init__(codec, budget_gb)
        self._rows: dict[bytes, Tensor] = {}

    def open(
        self, extractor: str, shapes: Sequence[Shape], image_size: tuple[int, int] | None = None
    ) -> None:
        """See `FeatureCache`."""
        super().open(extractor, shapes, image_size)
        memory, _ = self.room()
        if self.budget > memory:
            log.warning(
                "feature cache: data.cache.budget_gb is %.1f, this machine has %.1f GB of memory: lower it",
                self.budget / GB, memory / GB,
            )  # fmt: skip
            self.budget = memory
        places = 2 * max(1, self.budget // self.row_bytes) + 1
        # open addressing: key and fingerprint of each cached row, 0 where free; shared with the loaders
        self._table = shared(torch.zeros((places, 2), dtype=torch.int64))

    def get(self, key: CacheKey) -> CacheResult:
        """See `FeatureCache`."""
        place = self._place(key)
        return CacheResult(int(self._table[place, 1]) == _number(key.fingerprint))

    def store(self, keys: Sequence[CacheKey], rows: Tensor) -> None:
        """See `FeatureCache`."""
        for key, row in zip(keys, rows, strict=True):
            if key.key not in self._rows and (len(self._rows) + 1) * self.row_bytes > self.budget:
                self.counts["rejected"] += 1
                continue
            try:
                self._rows[key.key] = row.clone()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                log.warning(
                    "feature cache: no memory left for more than %d images, nothing more is stored: "
                    "lower data.cache.budget_gb or use data/cache=disk", len(self._rows)
                )  # fmt: skip
                self.budget = 0
                return
            self._table[self._place(key)] = torch.tensor([_number(key.key), _number(key.fingerprint)])

    def load(self, keys: Sequence[CacheKey], read: Tensor) -> Tensor:
        """See `FeatureCache`."""
        return torch.stack([self._rows[key.key] for key in keys])

    def capacity(self, wanted: int) -> int:
        """See `FeatureCache`."""
        return self.budget

    def room(self) -> tuple[int, str]:
        """See `FeatureCache`; the machine's memory, also where features are in GPU memory."""
        return memory_limit(), "memory"

    def _place(self, key: CacheKey) -> int:
        """Return the place of a key in the table, which always has a free place."""
        wanted, places = _number(key.key), len(self._table)
        place = wanted % places
        while int(self._table[place, 0]) not in (0, wanted):
            place = (place + 1) % places
        return place

    def __getstate__(self) -> dict[str, object]:
        """Drop the features, which loader processes do not need."""
        return {**self.__dict__, "_rows": {}}


def _number(digest: bytes) -> int:
    """Return the first 63 bits of a digest, never 0."""
    return (int.from_bytes(digest[:8], "little") >> 1) or 1
