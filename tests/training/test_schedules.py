import math
from functools import partial

import pytest
import torch

from roiseg.training.schedules import constant, cosine, poly, step

SCHEDULES = {"constant": constant, "cosine": cosine, "step": step, "poly": poly}
STEPS, BASE = 200, 0.4

every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def make(schedule, steps=STEPS, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    return optimizer, schedule(optimizer, total_steps=steps, **options)


def rates_of(optimizer, scheduler, steps):
    """The rate at the start and after each of `steps` optimiser steps, relative to the full one."""
    rates = [optimizer.param_groups[0]["lr"] / BASE]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"] / BASE)
    return rates


def run(schedule, steps=STEPS, **options):
    return rates_of(*make(schedule, steps, **options), steps)


@every
@pytest.mark.parametrize("warmup", [0.05, 0.25])
def test_warm_up_rises_by_equal_steps_to_the_full_rate(schedule, warmup):
    rates = run(schedule, warmup=warmup)
    count = round(warmup * STEPS)
    expected = [(i + 1) / (count + 1) for i in range(count + 1)]
    assert rates[: count + 1] == pytest.approx(expected)
    assert max(rates) == pytest.approx(1)
    for steps in (0, 1, 2):
        assert all(0 <= rate <= 1 for rate in run(schedule, steps=steps, warmup=0.5))


SHAPES = [
    (constant, {}, lambda done: 1.0),
    (cosine, {"final": 0.02}, lambda done: 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2),
    (step, {"milestones": [0.5, 0.75], "gamma": 0.1}, lambda done: 0.1 ** ((done >= 0.5) + (done >= 0.75))),
    (poly, {"power": 0.9}, lambda done: (1 - done) ** 0.9),
    (poly, {"power": 2.0}, lambda done: (1 - done) ** 2),
]


@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize(("schedule", "options", "shape"), SHAPES)
def test_the_rate_is_that_of_the_formula_over_what_follows_the_warm_up(schedule, options, shape, warmup):
    rates = run(schedule, warmup=warmup, **options)
    start = round(warmup * STEPS)
    expected = [shape(n / (STEPS - start)) for n in range(STEPS - start + 1)]
    assert rates[start:] == pytest.approx(expected)


@every
def test_a_restored_state_goes_on_where_it_was(schedule, tmp_path):
    whole = run(schedule, warmup=0.1)
    parts = make(schedule, warmup=0.1)
    rates_of(*parts, 77)
    torch.save([part.state_dict() for part in parts], tmp_path / "state.pth")
    parts = make(schedule, warmup=0.1)
    for part, state in zip(parts, torch.load(tmp_path / "state.pth", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert rates_of(*parts, STEPS - 77) == pytest.approx(whole[77:])


@every
def test_every_parameter_group_keeps_its_own_rate(schedule):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = partial(schedule, warmup=0.2)(optimizer, total_steps=20)
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == pytest.approx(10 * rates[1])
