"""The interface of the feature caches: keys, results and counts."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor

from roiseg.extractor.cache.codec import Codec, Shape

log = logging.getLogger(__name__)

GB = 1e9


def shared(tensor: Tensor) -> Tensor:
    """Move a tensor to shared memory; return it unchanged if there is none (then there are no loaders)."""
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
    """Stores encoded features; read by the loader processes, filled by the training process.

    For decoders that read the image, it is stored beside its features.

    Every image is needed once per epoch, in random order, so eviction would gain nothing: a full cache
    keeps its entries and rejects new ones.

    Args:
        codec: encoding of the features.
        budget_gb: maximum size in 10^9 bytes.
    """

    def __init__(self, codec: Codec, budget_gb: PositiveFloat) -> None:
        self.codec = codec
        self.budget = round(budget_gb * GB)
        self.counts: Counter[str] = Counter()  # images: hit, computed; of these rejected (no room)

    @property
    def damaged(self) -> int:
        """Return the number of damaged entries found."""
        return 0

    def summary(self) -> dict[str, int]:
        """Return the counts of images and of damaged entries."""
        images = {name: self.counts[name] for name in ("hit", "computed", "rejected")}
        return {**images, "damaged": self.damaged}

    def open(
        self, extractor: str, shapes: Sequence[Shape], image_size: tuple[int, int] | None = None
    ) -> None:
        """Open the cache for the features of an extractor.

        Args:
            extractor: its identity, everything that features depend on.
            shapes: (C, H, W) of its layers.
            image_size: (H, W) of its input, if images are stored beside their features; else None.
        """
        self.shapes = list(shapes)
        self.image_size = image_size
        self.row_bytes = self.bytes_per_image(shapes, image_size)

    def bytes_per_image(self, shapes: Sequence[Shape], image_size: tuple[int, int] | None) -> int:
        """Return the bytes that an image takes; for the arguments see `open`."""
        image = 0 if image_size is None else 3 * math.prod(image_size)
        return sum(self.codec.length(shape) for shape in shapes) + image

    def pack(self, features: Sequence[Tensor], images: Tensor) -> Tensor:
        """Encode layers [B, C_l, H_l, W_l], and uint8 images [B, H, W, 3] if they are stored, as rows."""
        rows = self.codec.pack(features)
        return rows if self.image_size is None else torch.cat([rows, images.flatten(1)], dim=1)

    def unpack(self, rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Decode the layers and images of `pack`; images are None if they are not stored."""
        if self.image_size is None:
            return self.codec.unpack(rows, self.shapes), None
        length = self.bytes_per_image(self.shapes, None)
        images = rows[:, length:].unflatten(1, (*self.image_size, 3))
        return self.codec.unpack(rows[:, :length], self.shapes), images

    @abstractmethod
    def get(self, key: CacheKey) -> CacheResult:
        """Look up features, in a loader process; stale ones are a miss."""

    @abstractmethod
    def store(self, keys: Sequence[CacheKey], rows: Tensor) -> None:
        """Store encoded features, uint8 [n, row_bytes], as far as there is room."""

    @abstractmethod
    def load(self, keys: Sequence[CacheKey], read: Tensor) -> Tensor:
        """Return the encoded features of keys that were hits, in the training process.

        Args:
            keys: the hits.
            read: uint8 [n, row_bytes], the rows of the results in the same order; empty without rows.

        Returns:
            uint8 [n, row_bytes].
        """

    @abstractmethod
    def capacity(self, wanted: int) -> int:
        """Return the bytes it may hold of this extractor's features, stored ones included.

        Args:
            wanted: bytes to make room for, if possible.
        """

    @abstractmethod
    def room(self) -> tuple[int, str]:
        """Return the bytes available regardless of the budget, stored ones included, and the place.

        Nothing is opened, created or removed.
        """

    def stored(self) -> int:
        """Return the number of images whose features are stored when a run starts."""
        return 0

    def plan(self, images: int) -> int:
        """Log what the features of `images` images will take; warn if that exceeds the capacity.

        Returns:
            How many will be computed and stored.
        """
        wanted = images * self.row_bytes
        capacity, (room, place) = self.capacity(wanted), self.room()
        each, found = self.row_bytes / 1e6, min(images, self.stored())
        if wanted <= capacity:
            log.info(
                "feature cache: %d images of %.2f MB take %.2f GB in %s, %d are stored",
                images, each, wanted / GB, place, found,
            )  # fmt: skip
            return images - found
        enlarge = "raise data.cache.budget_gb"
        if room < min(wanted, self.budget):
            enlarge = (
                f"{place} has no room for more: set data/cache=disk and paths.cache_dir to a disk that has"
            )
        log.warning(
            "feature cache: %d images of %.1f MB are %.1f GB, the limit is %.1f GB (%.0f %%): "
            "the rest is computed every epoch; %s, or use a smaller codec or pool",
            images, each, wanted / GB, capacity / GB, 100 * capacity / wanted, enlarge,
        )  # fmt: skip
        return max(0, capacity // self.row_bytes - found)
