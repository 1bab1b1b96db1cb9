"""The order in which an epoch visits the images, and how processes share them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import distributed
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffles by (seed, epoch) and hands the epoch to the dataset with every index.

    Under distributed training process r of W takes positions r, r + W, ... of the order, so that W
    processes with batches of n see in every step what one with batches of W * n sees. Training shares
    are equal, the last round filled up from the start. Evaluation repeats nothing: shares differ by at
    most one.

    Args:
        length: number of images.
        seed: root of the order.
        shuffle: True for training; False keeps the order and repeats nothing.
        first_epoch: epoch of the first iteration.
        done: positions of this process's share that the first epoch leaves out, because a run before has
            visited them. The length stays that of the whole epoch.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, first_epoch: int = 0, done: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = first_epoch
        self._done = {first_epoch: done}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (Lightning calls this)."""
        self.epoch = epoch

    @property
    def idle(self) -> bool:
        """Has this process no image to evaluate? It then visits one of another's, which must not count."""
        rank, _ = _rank_and_world()
        return not self.shuffle and rank >= self.length

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        share = self._share()[self._done.get(self.epoch, 0) :]
        return iter([(self.epoch, int(order[position])) for position in share])

    def _share(self) -> list[int]:
        """Positions of the order that this process visits."""
        rank, world = _rank_and_world()
        if self.shuffle or self.idle:  # Lightning wants a batch on every process
            rounds = -(-self.length // world)
            return [position % self.length for position in range(rank, rounds * world, world)]
        return list(range(rank, self.length, world))


def _rank_and_world() -> tuple[int, int]:
    """Number of this process, and of how many."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
