"""How sure a mean over ROIs is: a bootstrap that draws images and trainings anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_CELLS = 4_000_000  # of the table resamples x images that is held at once


@dataclass(frozen=True)
class Block:
    """What was measured on the ROIs of one fold.

    Attributes:
        values: [S, n], one row a training (seed), one column a ROI.
        images: [n], the image of each ROI; a label of one block is another image in another block.
    """

    values: NDArray[np.float64]
    images: NDArray[np.str_]


@dataclass(frozen=True)
class Interval:
    """A mean over ROIs and its 95 % confidence interval, in the unit of the values.

    Attributes:
        mean: over all ROIs of the mean over trainings.
        low: lower end; None with fewer than two images.
        high: upper end; None with fewer than two images.
        rois: number of ROIs.
        images: number of images they lie in.
    """

    mean: float
    low: float | None
    high: float | None
    rois: int
    images: int


def mean_interval(blocks: Sequence[Block], resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Mean over the ROIs of all blocks, with a bootstrap confidence interval; None without a ROI.

    With v[f,s,i] the value of training s of fold f on ROI i, and v[f,i] its mean over the S_f trainings of
    the fold, the mean is m = sum_fi v[f,i] / N over the N ROIs of all folds. A resample

    - draws as many images as there are, with replacement, from all folds together: ROIs of one image are
      not independent, so they come and go together (cluster bootstrap; Davison & Hinkley, 1997, 3.8);
    - in each fold with S_f >= 2 draws S_f of its trainings, with replacement and crossed with the images
      (Owen, The pigeonhole bootstrap, 2007). Beforehand v[f,s,i] is moved away from v[f,i] by the factor
      sqrt(S_f / (S_f - 1)), without which the variance of S_f draws would be too small by its square.

    Its mean is m* = (sum over drawn images, of their ROIs' values averaged over drawn trainings) / (number
    of ROIs drawn). The interval is the central 95 % of m + k (m* - m), where k = sqrt(G / (G - 1)) t / z
    widens it for the number of images, G (t, z: the 97.5 % points of Student's t with G - 1 degrees of
    freedom and of the normal distribution; Hesterberg, What teachers should know about the bootstrap, 2015).
    With one training a fold the interval says how the mean would vary on other images, not how it would vary
    if training were repeated.

    Args:
        blocks: one a fold.
        resamples: how many.
        seed: of the draws; the same blocks and seed give the same interval.
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
    draws = np.concatenate([_draw(tables, images, count, rng) for count in _portions(resamples, images)])
    widen = math.sqrt(images / (images - 1)) * student_t(images - 1) / _z()
    low, high = mean + widen * (np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - mean)
    return Interval(mean, float(low), float(high), rois, images)


def _image_sums(block: Block) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums over each image's ROIs, trainings moved apart, [S, G]; and numbers of ROIs, [G]."""
    trainings = len(block.values)
    means = block.values.mean(axis=0)
    apart = math.sqrt(trainings / (trainings - 1)) if trainings > 1 else 1.0
    moved = means + apart * (block.values - means)
    _, image = np.unique(block.images, return_inverse=True)
    return np.stack([np.bincount(image, row) for row in moved]), np.bincount(image)


def _draw(
    tables: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]],
    images: int,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Means of `count` resamples."""
    times = rng.multinomial(images, np.full(images, 1 / images), size=count)  # [count, G]
    total, number = np.zeros(count), np.zeros(count)
    first = 0
    for sums, sizes in tables:
        here = times[:, first : first + len(sizes)].astype(np.float64)
        trainings = len(sums)
        share = rng.multinomial(trainings, np.full(trainings, 1 / trainings), size=count) / trainings
        total += ((here @ sums.T) * share).sum(axis=1)
        number += here @ sizes
        first += len(sizes)
    return total / number


def _portions(resamples: int, images: int) -> Iterator[int]:
    most = max(1, _CELLS // images)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t (Abramowitz & Stegun, 26.7.5; from 3 degrees within 0.2 %)."""
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
