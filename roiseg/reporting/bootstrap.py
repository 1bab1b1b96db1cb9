"""Confidence intervals of means over ROIs: a bootstrap over images and trainings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_MAX_CELLS = 4_000_000  # resamples x images in memory at a time


@dataclass(frozen=True)
class Block:
    """Values of a metric on the ROIs of one fold."""

    values: NDArray[np.float64]  # [S, n], one row per training (seed), one column per ROI
    images: NDArray[np.str_]  # [n], the image of each ROI; equal labels in two blocks are different images


@dataclass(frozen=True)
class Interval:
    """A mean over ROIs with its 95 % confidence interval, in the unit of the values.

    Attributes:
        low, high: ends of the interval; None with fewer than two images.
    """

    mean: float
    low: float | None
    high: float | None
    rois: int
    images: int


def mean_interval(blocks: Sequence[Block], resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Compute the mean over the ROIs of all blocks and its confidence interval; None without ROIs.

    With v[f,s,i] the value of training s of fold f on ROI i, and v[f,i] its mean over the S_f trainings of
    the fold, the mean is m = sum_fi v[f,i] / N over the N ROIs of all folds. Each resample

    - samples images with replacement, as many as there are, from all folds together: the ROIs of an image
      are not independent, so they are sampled together (cluster bootstrap; Davison & Hinkley, 1997, 3.8);
    - in each fold with S_f >= 2 samples S_f of its trainings with replacement, crossed with the images
      (Owen, The pigeonhole bootstrap, 2007). Before, deviations v[f,s,i] - v[f,i] are scaled by
      sqrt(S_f / (S_f - 1)), which makes the variance over S_f sampled trainings unbiased.

    Its mean m* is the mean over the sampled images' ROIs of the mean over the sampled trainings. The interval
    is the central 95 % of m + k (m* - m), where k = sqrt(G / (G - 1)) t / z widens it for the number of
    images, G (t, z: the 97.5 % points of Student's t with G - 1 degrees of freedom and of the normal
    distribution; Hesterberg, What teachers should know about the bootstrap, 2015).
    With one training per fold the interval covers the variation over images, not that of repeated training.

    Args:
        seed: random seed; the same blocks and seed give the same interval.
    """
    blocks = [block for block in blocks if block.values.size]
    if not blocks:
        return None
    tables = [_image_sums(block) for block in blocks]
    rois = sum(block.values.shape[1] for block in blocks)
    images = sum(len(sizes) for _, sizes in tables)
    mean = float(sum(sums.mean(axis=0).sum() for sums, _ in tables)) / rois
    if images < 2:
        return Interval(mean, None, None, rois, images)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [_resample(tables, images, count, rng) for count in _batch_sizes(resamples, images)]
    )
    widen = math.sqrt(images / (images - 1)) * student_t(images - 1) / _z()
    low, high = mean + widen * (np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - mean)
    return Interval(mean, float(low), float(high), rois, images)


def _image_sums(block: Block) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return sums over each image's ROIs with scaled deviations, [S, G], and numbers of ROIs, [G]."""
    trainings = len(block.values)
    means = block.values.mean(axis=0)
    scale = math.sqrt(trainings / (trainings - 1)) if trainings > 1 else 1.0
    scaled = means + scale * (block.values - means)
    _, image = np.unique(block.images, return_inverse=True)
    return np.stack([np.bincount(image, row) for row in scaled]), np.bincount(image)


def _resample(
    tables: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]],
    images: int,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the means of `count` resamples."""
    times = rng.multinomial(images, np.full(images, 1 / images), size=count)  # [count, G]
    total, number = np.zeros(count), np.zeros(count)
    first = 0
    for sums, sizes in tables:
        counts = times[:, first : first + len(sizes)].astype(np.float64)
        trainings = len(sums)
        share = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size=count) / trainings
        total += ((counts @ sums.T) * share).sum(axis=1)
        number += counts @ sizes
        first += len(sizes)
    return total / number


def _batch_sizes(resamples: int, images: int) -> Iterator[int]:
    largest = max(1, _MAX_CELLS // images)
    for start in range(0, resamples, largest):
        yield min(largest, resamples - start)


def student_t(freedom: int) -> float:
    """Return the 97.5 % point of Student's t (Abramowitz & Stegun, 26.7.5; within 0.2 % from 3 degrees)."""
    z = _z()
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def _z() -> float:
    return NormalDist().inv_cdf((1 + LEVEL) / 2)
