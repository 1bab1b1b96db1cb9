"""How well the score of a mask, its predicted IoU, agrees with the measured IoU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_SCORE = 1e-3  # expected IoUs are clipped to LEAST_SCORE ... 1 - LEAST_SCORE
_GROUPS = 10


class Calibration(NamedTuple):
    """Linear change of the logit of a mask's expected IoU."""

    slope: float = 1.0
    offset: float = 0.0


def fit_calibration(expected: ArrayLike, ious: ArrayLike) -> Calibration:
    """Fit predicted to measured IoUs by logistic regression; masks of score 0 are left out.

    A penalty, which counts as much as a few masks, keeps the result near the identity where masks are few.
    Where the IoU does not grow with the score, the slope is 0: every mask has the same score.

    Args:
        expected: [N] uncalibrated scores.
    """
    shares, measured = np.asarray(expected, np.float64), np.asarray(ious, np.float64)
    clipped = np.clip(shares[shares > 0], LEAST_SCORE, 1 - LEAST_SCORE)
    inputs = np.stack([np.log(clipped / (1 - clipped)), np.ones_like(clipped)], axis=1)
    identity = weights = np.array(Calibration())
    for _ in range(50):  # Newton's method, in steps of bounded length
        predicted = 1 / (1 + np.exp(-np.clip(inputs @ weights, -50, 50)))
        curvature = inputs.T @ (inputs * (predicted * (1 - predicted))[:, None]) + np.eye(2)
        gradient = inputs.T @ (measured[shares > 0] - predicted) - (weights - identity)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step / max(1.0, float(np.abs(step).max()))
    if weights[0] < 0:
        mean = np.clip(measured[shares > 0].mean(), LEAST_SCORE, 1 - LEAST_SCORE)
        weights = np.array([0.0, np.log(mean / (1 - mean))])
    return Calibration(*np.round(weights, 4).tolist())


def calibration_error(scores: ArrayLike, ious: ArrayLike) -> float | None:
    """Return the expected calibration error (Naeini et al., 2015) of predicted IoUs; None without masks.

    The masks are sorted by score into ten groups of equal number; the result is the mean over masks of the
    distance between the mean score and the mean IoU of their group.
    """
    predicted, measured = np.asarray(scores, np.float64), np.asarray(ious, np.float64)
    if not len(predicted):
        return None
    order: NDArray[np.int64] = np.argsort(predicted, kind="stable")
    groups = np.array_split(order, min(_GROUPS, len(order)))
    distances = [len(group) * abs(predicted[group].mean() - measured[group].mean()) for group in groups]
    return float(sum(distances) / len(order))
