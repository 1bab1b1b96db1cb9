"""Compute class weights from class shares: rare classes count more in the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from roiseg.common.errors import UserError

_CLIP = (0.1, 10.0)
_LOG_OFFSET = 1.02  # keeps the logarithm above 0: raw weights lie within 1.4 (share 1) and 50 (share 0)


def _inverse(share: float) -> float:
    return 1 / share


def _log(share: float) -> float:
    return 1 / math.log(_LOG_OFFSET + share)


KINDS: dict[str, Callable[[float], float]] = {"inverse": _inverse, "log": _log}


def recommend(shares: Sequence[float], kind: str) -> list[float]:
    """Return weights of mean 1 from the classes' shares of the pixels.

    "inverse" is 1 / share; "log" is 1 / ln(1.02 + share) (ENet, Paszke et al., 2016), which is much
    milder. Raw weights are divided by their mean over the classes that occur and clipped to 0.1..10;
    a class that never occurs gets 10; finally all are divided by their mean.

    Args:
        shares: share of each class, 0..1.
        kind: "inverse" or "log".

    Raises:
        UserError: the kind is unknown.
    """
    formula = KINDS[_known(kind)]
    raw = [formula(share) if share > 0 else math.inf for share in shares]
    occurring = [value for value in raw if math.isfinite(value)]
    mean = sum(occurring) / max(1, len(occurring))
    clipped = [_CLIP[1] if math.isinf(value) else min(max(value / mean, _CLIP[0]), _CLIP[1]) for value in raw]
    return [value * len(clipped) / sum(clipped) for value in clipped]


def recommend_all(background: float, target: float, non_target: float) -> dict[str, dict[str, list[float]]]:
    """Return weights `{kind: {"2": [...], "3": [...]}}` by number of classes, from pixel counts or shares.

    With 2 classes non-target pixels are background.
    """
    total = (background + target + non_target) or 1
    shares = {
        "2": [(background + non_target) / total, target / total],
        "3": [background / total, target / total, non_target / total],
    }
    return {
        kind: {number: [round(weight, 6) for weight in recommend(of, kind)] for number, of in shares.items()}
        for kind in KINDS
    }


def class_weights(analysis: Mapping[str, Any], kind: str, num_classes: int) -> list[float]:
    """Return the weights that an analysis recommends.

    Args:
        analysis: content of `data_analyze.json`.
        kind: "log" or "inverse".
        num_classes: 3, or 2 where non-target pixels are background.

    Raises:
        UserError: the kind is unknown.
    """
    kind = _known(kind)
    return [float(weight) for weight in analysis["class_weights"][kind][str(num_classes)]]


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise UserError(f"loss.class_weights must be null, log, inverse or a list of numbers, got {kind!r}")
    return kind
