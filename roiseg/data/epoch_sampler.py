"""The order in which an epoch visits the images, and how processes share them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import distributed
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffles by (seed, epoch) and hands the epoch to the dataset with every index.

    Under distributed training each process takes every world-size-th index; the last round is filled
    up from the start so that all take the same number of steps.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, first_epoch: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        _, world = _rank_and_world()
        return -(-self.length // world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        rank, world = _rank_and_world()
        indices = order[torch.arange(rank, len(self) * world, world) % max(1, self.length)]
        return iter([(self.epoch, int(i)) for i in indices])


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
