from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

from roiseg.training.schedules import constant, cosine, poly, step

SCHEDULES = {"constant": constant, "cosine": cosine, "step": step, "poly": poly}
STEPS, BASE = 200, 0.4

every = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)


def run(schedule, steps=STEPS, **options):
    """The rate at the start and after each of `steps` optimiser steps, relative to the full one."""
    optimizer = make_optimizer()
    scheduler = schedule(optimizer, total_steps=steps, **options)
    rates = [optimizer.param_groups[0]["lr"] / BASE]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"] / BASE)
    return rates


@every
@pytest.mark.parametrize("warmup", [0.05, 0.25])
def test_warm_up_rises_by_equal_steps_to_the_full_rate(schedule, warmup):
    rates = run(schedule, warmup=warmup)
    count = round(warmup * STEPS)
    expected = [(i + 1) / (count + 1) for i in range(count + 1)]
    assert rates[: count + 1] == pytest.approx(expected)
    assert rates[0] > 0
    assert max(rates) == pytest.approx(1)


@every
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_after_the_warm_up_the_rate_never_rises_and_is_never_negative(schedule, warmup):
    after = run(schedule, warmup=warmup)[round(warmup * STEPS) :]
    assert after[0] == pytest.approx(1)
    assert (set(after) == {1.0}) == (schedule is constant)
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(after))
    assert min(after) >= 0
    for steps in (0, 1, 2):
        assert all(0 <= rate <= 1 for rate in run(schedule, steps=steps, warmup=0.5))


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_cosine_is_half_way_down_in_the_middle_and_ends_at_final(warmup):
    rates = run(cosine, warmup=warmup, final=0.02)
    start = round(warmup * STEPS)
    assert rates[(start + STEPS) // 2] == pytest.approx((1 + 0.02) / 2)
    assert rates[start + (STEPS - start) // 4] == pytest.approx(0.02 + 0.98 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[-1] == pytest.approx(0.02)


def test_step_falls_tenfold_at_each_milestone():
    rates = run(step, milestones=[0.5, 0.75], gamma=0.1)
    assert rates[99] == pytest.approx(1)
    assert rates[100] == pytest.approx(0.1)
    assert rates[149] == pytest.approx(0.1)
    assert rates[150] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.01)
    rates = run(step, warmup=0.2, milestones=[0.5], gamma=0.5)  # shares of what follows: 40 + 160 / 2
    assert (rates[119], rates[120]) == pytest.approx((1, 0.5))


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_poly_is_a_power_of_what_is_left_and_ends_at_0(power):
    rates = run(poly, power=power)
    assert rates[50] == pytest.approx(0.75**power)
    assert rates[100] == pytest.approx(0.5**power)
    assert rates[-1] == 0


@every
def test_a_restored_state_goes_on_where_it_was(schedule, tmp_path):
    whole = run(schedule, warmup=0.1)
    optimizer = make_optimizer()
    scheduler = schedule(optimizer, total_steps=STEPS, warmup=0.1)
    for _ in range(77):
        optimizer.step()
        scheduler.step()
    torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict()}, tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    optimizer = make_optimizer()
    scheduler = schedule(optimizer, total_steps=STEPS, warmup=0.1)
    optimizer.load_state_dict(state["o"])
    scheduler.load_state_dict(state["s"])
    rates = [optimizer.param_groups[0]["lr"] / BASE]
    for _ in range(STEPS - 77):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"] / BASE)
    assert rates == pytest.approx(whole[77:])


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
