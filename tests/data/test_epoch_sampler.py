"""Orders of epochs, and the shares of processes."""

from __future__ import annotations

import pytest

import roiseg.data.samplers as epoch_sampler_module
from roiseg.data.samplers import EpochSampler

SIZES = [(10, 1), (10, 2), (11, 2), (7, 3), (3, 3), (3, 4), (2, 5), (1, 4), (1, 8), (5, 64)]


@pytest.fixture
def as_process(monkeypatch):
    """`as_process(rank, world)`: what follows runs as that process of so many."""

    def become(rank, world):
        monkeypatch.setattr(epoch_sampler_module, "_rank_and_world", lambda: (rank, world))

    return become


def indices(sampler):
    return [n for _, n in sampler]


def test_epochs_are_shuffled_differently_and_the_same_seed_alike():
    sampler, same, other = (EpochSampler(50, seed, shuffle=True) for seed in (3, 3, 4))
    first, again = list(sampler), list(sampler)
    assert first == again == list(same)
    assert sorted(n for _, n in first) == list(range(50))
    sampler.set_epoch(1)
    assert [e for e, _ in sampler] == [1] * 50
    assert [n for _, n in sampler] != [n for _, n in first]
    assert sorted(n for _, n in sampler) == list(range(50))
    assert list(other) != first


def test_without_shuffling_the_order_is_the_files():
    sampler = EpochSampler(5, 3, shuffle=False)
    sampler.set_epoch(9)
    assert list(sampler) == [(9, n) for n in range(5)]
    assert len(sampler) == 5


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_training_shares_are_equal_and_cover_everything(as_process, length, world):
    shares = []
    for rank in range(world):
        as_process(rank, world)
        sampler = EpochSampler(length, 0, shuffle=True)
        sampler.set_epoch(2)
        assert not sampler.idle
        shares.append(indices(sampler))
        assert len(shares[-1]) == len(sampler)
    assert len({len(share) for share in shares}) == 1
    together = [n for share in shares for n in share]
    assert set(together) == set(range(length))
    assert len(together) < length + world  # nothing more than the last round is repeated


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_evaluation_counts_every_image_once(as_process, length, world):
    counted = []
    for rank in range(world):
        as_process(rank, world)
        sampler = EpochSampler(length, 0, shuffle=False)
        share = indices(sampler)
        assert len(share) == len(sampler) >= 1  # Lightning skips an evaluation without batches
        assert abs(len(share) - length / world) < 1
        if not sampler.idle:
            counted += share
    assert sorted(counted) == list(range(length))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_see_in_a_step_what_one_sees_with_the_whole_batch(as_process, batch, world):
    length = 24
    as_process(0, 1)
    alone = indices(EpochSampler(length, 5, shuffle=True))
    whole = batch * world
    shares = []
    for rank in range(world):
        as_process(rank, world)
        shares.append(indices(EpochSampler(length, 5, shuffle=True)))
    for step in range(-(-length // whole)):
        together = [n for share in shares for n in share[step * batch : (step + 1) * batch]]
        assert sorted(together) == sorted(alone[step * whole : (step + 1) * whole])


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_an_epoch_that_a_run_before_has_begun_goes_on_with_the_same_images(length, world, as_process):
    for rank in range(world):
        as_process(rank, world)
        whole = EpochSampler(length, 3, shuffle=True, first_epoch=4)
        share = list(whole)
        for done in range(len(share)):
            rest = EpochSampler(length, 3, shuffle=True, first_epoch=4, done=done)
            assert len(rest) == len(share)
            assert list(rest) == share[done:]
            for sampler in (whole, rest):
                sampler.set_epoch(5)
            assert list(rest) == list(whole)
            whole.set_epoch(4)
