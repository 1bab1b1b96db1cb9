"""What the caches share: keys, what a lookup finds, what is counted."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.extractor.cache.codec import Codec, Shape

log = logging.getLogger(__name__)

GB = 1e9


def shared(tensor: Tensor) -> Tensor:
    """The tensor in memory that loader processes share; as it is where there is none, and so none of them."""
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        log.debug("no shared memory: %s", error)
        return tensor


@dataclass(frozen=True)
class CacheKey:
    """Identifies cached features. An entry whose fingerprint differs is stale and is replaced.

    Args:
        key: digest of the image's path and view.
        fingerprint: digest of everything the features depend on besides the detector.
    """

    key: bytes
    fingerprint: bytes

    @staticmethod
    def of(key: object, fingerprint: object) -> CacheKey:
        """Digest two values by their `repr`."""
        return CacheKey(*(xxhash.xxh3_128_digest(repr(part).encode()) for part in (key, fingerprint)))


@dataclass(frozen=True)
class CacheResult:
    """The result of a lookup in a loader process.

    Attributes:
        hit: the features are cached.
        row: their encoded bytes; None for a miss, and for a cache in the training process's memory.
    """

    hit: bool
    row: NDArray[np.uint8] | None = None


class FeatureCache(ABC):
    """Keeps encoded features; looked up in the loader processes, filled by the training process.

    Each image is wanted once an epoch, in random order: what is evicted would have been as useful as
    what takes its place. A full cache therefore keeps what it has and takes nothing more.

    Args:
        codec: how features are kept.
        budget_gb: most it may hold, in 10^9 bytes.

    Raises:
        UserError: the budget is not above 0.
    """

    def __init__(self, codec: Codec, budget_gb: float) -> None:
        if not budget_gb > 0:
            raise UserError(f"data.cache.budget_gb must be above 0, got {budget_gb}")
        self.codec = codec
        self.budget = round(budget_gb * GB)
        self.counts: Counter[str] = Counter()  # images: hit, computed; of these rejected (no room)

    @property
    def damaged(self) -> int:
        """How often features were found damaged."""
        return 0

    def summary(self) -> dict[str, int]:
        """Images so far, by what became of them; and damaged entries."""
        images = {name: self.counts[name] for name in ("hit", "computed", "rejected")}
        return {**images, "damaged": self.damaged}

    def open(self, extractor: str, shapes: Sequence[Shape]) -> None:
        """Prepare for the features of one extractor.

        Args:
            extractor: everything about it that features depend on.
            shapes: (C, H, W) of its layers.
        """
        self.shapes = list(shapes)
        self.row_bytes = sum(self.codec.length(shape) for shape in shapes)

    @abstractmethod
    def get(self, key: CacheKey) -> CacheResult:
        """In a loader process: are these features kept? Stale ones are not."""

    @abstractmethod
    def store(self, keys: Sequence[CacheKey], rows: Tensor) -> None:
        """Keep encoded features, uint8 [n, row_bytes], as far as there is room."""

    @abstractmethod
    def load(self, keys: Sequence[CacheKey], read: Tensor) -> Tensor:
        """In the training process: the encoded features that lookups said are held.

        Args:
            keys: what is wanted.
            read: uint8 [n, row_bytes], the bytes the lookups came with, in the same order; none if none did.

        Returns:
            uint8 [n, row_bytes].
        """

    @abstractmethod
    def capacity(self, wanted: int) -> int:
        """Bytes it may hold of this extractor's features, those it holds already included.

        Args:
            wanted: bytes there should be room for, if room can be made.
        """

    @abstractmethod
    def room(self) -> tuple[int, str]:
        """Bytes that there are for features whatever the budget, those held already included; and where.

        Nothing is opened, made or removed.
        """

    def plan(self, images: int) -> None:
        """Say so before anything starts if the features of so many images are more than it may hold."""
        wanted = images * self.row_bytes
        capacity = self.capacity(wanted)
        if wanted > capacity:
            log.warning(
                "feature cache: %d images of %.1f MB make %.1f GB, it may hold %.1f GB (%.0f %%): the rest "
                "is computed every epoch; raise data.cache.budget_gb, or take a smaller codec or pool",
                images, self.row_bytes / 1e6, wanted / GB, capacity / GB, 100 * capacity / wanted,
            )  # fmt: skip
