"""Orders of epochs, and the shares of processes."""

import pytest

from roiseg.data import samplers
from roiseg.data.samplers import EpochSampler

SIZES = [(10, 1), (11, 2), (7, 3), (3, 3), (3, 4), (1, 8), (5, 64)]


@pytest.fixture
def shares(monkeypatch):
    """For every process of `world`: is it idle, and the indices of its share."""

    def of(world, length, *args, epoch=0, **options):
        found = []
        for rank in range(world):
            monkeypatch.setattr(samplers, "_rank_and_world", lambda rank=rank: (rank, world))
            sampler = EpochSampler(length, *args, **options)
            sampler.set_epoch(epoch)
            found.append((sampler.idle, [n for _, n in sampler]))
            assert len(found[-1][1]) == len(sampler)
        return found

    return of


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


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_training_shares_are_equal_and_cover_everything(shares, length, world):
    found = shares(world, length, 0, shuffle=True, epoch=2)
    assert not any(idle for idle, _ in found)
    assert len({len(share) for _, share in found}) == 1
    together = [n for _, share in found for n in share]
    assert set(together) == set(range(length))
    assert len(together) < length + world  # nothing more than the last round is repeated


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_evaluation_counts_every_image_once(shares, length, world):
    found = shares(world, length, 0, shuffle=False)
    for _, share in found:
        assert len(share) >= 1  # Lightning skips an evaluation without batches
        assert abs(len(share) - length / world) < 1
    counted = [n for idle, share in found if not idle for n in share]
    assert sorted(counted) == list(range(length))
    assert world > 1 or counted == list(range(length))


@pytest.mark.parametrize(("batch", "world"), [(1, 2), (3, 2), (2, 4)])
def test_processes_see_in_a_step_what_one_sees_with_the_whole_batch(shares, batch, world):
    ((_, alone),) = shares(1, 24, 5, shuffle=True)
    found, whole = shares(world, 24, 5, shuffle=True), batch * world
    for step in range(24 // whole):
        together = [n for _, share in found for n in share[step * batch : (step + 1) * batch]]
        assert sorted(together) == sorted(alone[step * whole : (step + 1) * whole])


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_a_resumed_epoch_continues_with_the_same_images(monkeypatch, length, world):
    for rank in range(world):
        monkeypatch.setattr(samplers, "_rank_and_world", lambda rank=rank: (rank, world))
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


@pytest.mark.parametrize(("length", "world"), SIZES)
def test_an_order_that_is_not_shared_is_whole_on_every_process(length, world, shares):
    assert shares(world, length, 3, shuffle=False, shared=False) == [(False, list(range(length)))] * world
