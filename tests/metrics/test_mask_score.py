"""Calibration of mask scores, against its definition."""

import numpy as np
import pytest

from roiseg.metrics.mask_score import Calibration, calibration_error, fit_calibration


def test_the_calibration_error_is_the_distance_between_scores_and_ious_in_groups():
    rng = np.random.default_rng(0)
    scores, ious = rng.random(47), rng.random(47)
    ranked = sorted(zip(scores, ious, strict=True))
    sizes = [5] * 7 + [4] * 3  # ten groups, the first ones larger
    error, start = 0.0, 0
    for size in sizes:
        score, iou = np.mean(ranked[start : start + size], axis=0)
        error, start = error + size / 47 * abs(score - iou), start + size
    assert calibration_error(scores, ious) == pytest.approx(error)
    assert calibration_error(scores, scores) == pytest.approx(0)
    assert calibration_error([0.9, 0.9], [0.4, 0.6]) == pytest.approx(0.4)
    assert calibration_error([], []) is None


def test_a_fit_finds_the_calibration_that_the_ious_follow():
    scores = np.random.default_rng(0).uniform(0.02, 0.98, 2000)
    ious = 1 / (1 + np.exp(-(0.4 * np.log(scores / (1 - scores)) + 0.7)))
    found = fit_calibration(scores, ious)
    assert found == pytest.approx((0.4, 0.7), abs=0.01)
    assert fit_calibration([*scores, 0.0, 0.0], [*ious, 0.0, 1.0]) == found  # empty masks do not count


def test_few_masks_change_little_and_scores_that_say_nothing_become_the_mean_iou():
    assert fit_calibration([], []) == Calibration()
    slope, offset = fit_calibration([0.9], [0.1])
    assert 0 < slope < 1 and -1 < offset < 0
    slope, offset = fit_calibration(np.linspace(0.1, 0.9, 100), np.linspace(0.8, 0.4, 100))
    assert slope == 0 and 1 / (1 + np.exp(-offset)) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("scores", [[0.0, 0.0], [1.0] * 50, [1e-9] * 50])
def test_extreme_scores_give_finite_calibrations(scores):
    assert np.isfinite(fit_calibration(scores, np.linspace(0, 1, len(scores)))).all()
