"""The bootstrap against loops, formulas, and data whose true mean is known."""

import math

import numpy as np
import pytest

from roiseg.reporting.bootstrap import Block, mean_interval, student_t

STUDENT_T = {3: 3.182, 4: 2.776, 9: 2.262, 14: 2.145, 29: 2.045, 60: 2.000, 1000: 1.962}  # printed tables


def block(values, images):
    return Block(np.atleast_2d(np.array(values, float)), np.array(images, str))


def random_blocks(rng, folds=3, trainings=2, images=7):
    blocks = []
    for _ in range(folds):
        of = np.repeat(np.arange(images), rng.integers(1, 5, images))
        blocks.append(block(rng.normal(0.6, 0.1, (trainings, len(of))), of))
    return blocks


@pytest.mark.parametrize(("freedom", "expected"), STUDENT_T.items())
def test_student_t_is_that_of_the_tables(freedom, expected):
    assert student_t(freedom) == pytest.approx(expected, rel=2e-3)


def test_images_of_equal_size_give_the_textbook_interval_of_their_means():
    rng = np.random.default_rng(3)
    person = rng.normal(0, 0.1, 40)
    values = (person[:, None] + rng.normal(0, 0.05, (40, 4))).ravel()
    found = mean_interval([block(values, np.repeat(np.arange(40), 4))])
    means = values.reshape(40, 4).mean(axis=1)
    error = means.std(ddof=1) / math.sqrt(40)
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(2.0227 * error, rel=0.04)
    as_if_independent = 1.96 * values.std(ddof=1) / math.sqrt(160)
    assert (found.high - found.low) / 2 > 1.5 * as_if_independent


def test_trainings_that_differ_give_the_textbook_variance_of_their_mean():
    rng = np.random.default_rng(4)
    names = np.arange(80).astype(str)
    noise = [rng.normal(0, sd, (2, 1)) for sd in rng.uniform(0.01, 0.05, 12)]
    blocks = [Block(np.tile(n - n.mean(), 80), names) for n in noise]  # images and folds alike
    found = mean_interval(blocks)
    variance = sum((1 / 12) ** 2 * n.var(ddof=1) / 2 for n in noise)
    assert found.mean == pytest.approx(0, abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.05)


def test_a_large_set_is_drawn_in_portions_with_the_same_kind_of_result(monkeypatch):
    blocks = random_blocks(np.random.default_rng(6), images=30)
    whole = mean_interval(blocks, 5000)
    monkeypatch.setattr("roiseg.reporting.bootstrap._MAX_CELLS", 1000)
    portions = mean_interval(blocks, 5000)
    assert (portions.low, portions.high) == pytest.approx((whole.low, whole.high), abs=3e-3)
    assert portions == mean_interval(blocks, 5000)


def test_no_roi_and_one_image():
    assert mean_interval([]) is None
    assert mean_interval([block(np.empty((2, 0)), [])]) is None
    found = mean_interval([block([[0.5, 0.7]], ["a", "a"]), block(np.empty((1, 0)), [])])
    assert (found.mean, found.low, found.high, found.images) == (pytest.approx(0.6), None, None, 1)


@pytest.mark.parametrize(
    ("folds", "seeds", "images", "training"), [(5, 1, 60, 0.0), (5, 2, 60, 0.03), (1, 1, 15, 0.0)]
)
def test_about_95_of_100_intervals_hold_the_true_mean(folds, seeds, images, training):
    """Differences of 0.01 on average; images, trainings and ROIs each add their own scatter."""
    rng = np.random.default_rng(7)
    hits = 0
    for number in range(300):
        blocks = []
        for _ in range(folds):
            of = np.repeat(np.arange(images // folds), 1 + rng.poisson(2, images // folds))
            values = 0.01 + rng.normal(0, 0.05, images // folds)[of] + rng.normal(0, training, (seeds, 1))
            blocks.append(block(values + rng.normal(0, 0.08, (seeds, len(of))), of))
        found = mean_interval(blocks, 500, number)
        hits += found.low <= 0.01 <= found.high
    assert 0.91 <= hits / 300 <= 0.99
