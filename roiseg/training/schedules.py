"""Learning rate schedules over a whole run, each with a linear warm-up; stepped every optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pydantic import PositiveFloat
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from roiseg.common.types import Share


def constant(optimizer: Optimizer, total_steps: int, warmup: Share = 0.0) -> LambdaLR:
    """Keep the full rate after the warm-up.

    Args:
        optimizer: whose rates are multiplied.
        total_steps: optimiser steps of the run.
        warmup: share (0..1) of the run in which the rate rises linearly from near 0.
    """
    return _schedule(optimizer, total_steps, warmup, lambda progress: 1.0)


def cosine(optimizer: Optimizer, total_steps: int, warmup: Share = 0.05, final: Share = 0.01) -> LambdaLR:
    """Decrease along half a cosine from the full rate to `final` times it (Loshchilov & Hutter, 2017)."""
    return _schedule(
        optimizer,
        total_steps,
        warmup,
        lambda progress: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)),
    )


def step(
    optimizer: Optimizer,
    total_steps: int,
    warmup: Share = 0.0,
    milestones: Sequence[Share] = (0.7, 0.9),
    gamma: PositiveFloat = 0.1,
) -> LambdaLR:
    """Multiply the rate by `gamma` at each milestone (shares 0..1 of the run after the warm-up)."""
    marks = tuple(milestones)
    return _schedule(
        optimizer, total_steps, warmup, lambda progress: gamma ** sum(progress >= mark for mark in marks)
    )


def poly(optimizer: Optimizer, total_steps: int, warmup: Share = 0.0, power: PositiveFloat = 0.9) -> LambdaLR:
    """Multiply the rate by (1 - progress) ** power (Chen et al., DeepLab, 2017)."""
    return _schedule(optimizer, total_steps, warmup, lambda progress: (1 - progress) ** power)


def _schedule(
    optimizer: Optimizer, total_steps: int, warmup: Share, shape: Callable[[float], float]
) -> LambdaLR:
    warmup_steps = round(warmup * total_steps)

    def factor(done: int) -> float:
        if done < warmup_steps:
            return (done + 1) / (warmup_steps + 1)
        progress = (done - warmup_steps) / max(1, total_steps - warmup_steps)
        return shape(min(1.0, progress))

    return LambdaLR(optimizer, factor)
