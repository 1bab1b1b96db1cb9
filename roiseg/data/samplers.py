"""Sample the ROIs of a training step, and the images of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import distributed
from torch.utils.data import Sampler

from roiseg.common.types import Share
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.boxes import Boxes


@dataclass(frozen=True)
class RoiSampler:
    """Samples K ROIs per image: annotated boxes, jittered ones, hard ones more often."""

    rois_per_image: PositiveInt = 4  # K. An image with fewer instances repeats some of them, jittered.
    jitter_share: Share = 0.5  # share (0..1) of samples that are jittered; repeated ones always are
    # the centre of a jittered box moves by up to this share of its sides
    jitter_center: NonNegativeFloat = 0.08
    jitter_scale: NonNegativeFloat = 0.15  # its sides are multiplied by a factor within 1 / (1 + s) .. 1 + s.
    # an instance is sampled 1 + hard_weight * crowding times as often as an isolated one (hard negative
    # mining; crowding is the share of its box covered by other boxes)
    hard_weight: NonNegativeFloat = 2.0

    def sample(
        self, boxes: Boxes, eligible: NDArray[np.int64], rng: np.random.Generator, size: tuple[int, int]
    ) -> tuple[Boxes, NDArray[np.int64]]:
        """Sample the ROIs of one image.

        Args:
            boxes: [n, 4] boxes of all its instances in input pixels.
            eligible: positions in `boxes` that may be a ROI.
            size: (H, W) of the input, to which ROIs are clipped.

        Returns:
            ROIs [K, 4] in input pixels and the position [K] of each one's target; both empty if
            nothing is eligible.
        """
        if not len(eligible):
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        weights = 1 + self.hard_weight * box_ops.crowding(boxes)[eligible].astype(np.float64)
        weights /= weights.sum()
        once = min(self.rois_per_image, len(eligible))
        chosen = rng.choice(eligible, once, replace=False, p=weights)
        again = rng.choice(eligible, self.rois_per_image - once, p=weights)
        target_index = np.concatenate([chosen, again])
        exact = boxes[target_index]
        moved = box_ops.clip(box_ops.jitter(exact, rng, self.jitter_center, self.jitter_scale), size)
        sides = np.minimum(moved[:, 2] - moved[:, 0], moved[:, 3] - moved[:, 1])
        use = (rng.random(len(target_index)) < self.jitter_share) | (np.arange(len(target_index)) >= once)
        rois = np.where((use & (sides >= 2))[:, None], moved, exact)
        return rois.astype(np.float32), target_index


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffles by (seed, epoch) and yields the epoch with every index.

    In distributed training, process r of W takes positions r, r + W, ... of the order, so that W processes
    with batches of n see in every step what one process with batches of W * n sees. Training shares are
    equal; the last round is filled from the start. Evaluation repeats nothing, so shares differ by at most
    one.

    Args:
        seed: root of the order.
        shuffle: True for training; False keeps the order and repeats nothing.
        first_epoch: epoch of the first iteration.
        done: positions of this process's share that the first epoch skips because an earlier run has visited
            them. The length stays that of the whole epoch.
        shared: among the processes; False: this one takes all positions.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        first_epoch: int = 0,
        done: int = 0,
        shared: bool = True,
    ) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = first_epoch
        self._done = {first_epoch: done}
        self.shared = shared

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration (called by Lightning)."""
        self.epoch = epoch

    @property
    def idle(self) -> bool:
        """Tell whether this process has no image to evaluate; it then visits one that must not be counted."""
        rank, _ = self._rank_and_world()
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
        """Return the positions of the order that this process visits."""
        rank, world = self._rank_and_world()
        if self.shuffle or self.idle:  # Lightning needs a batch on every process
            rounds = -(-self.length // world)
            return [position % self.length for position in range(rank, rounds * world, world)]
        return list(range(rank, self.length, world))

    def _rank_and_world(self) -> tuple[int, int]:
        return _rank_and_world() if self.shared else (0, 1)


def _rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
