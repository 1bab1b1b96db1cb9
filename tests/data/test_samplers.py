"""Which ROIs of an image are drawn; orders of epochs, and the shares of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiseg.data import samplers
from roiseg.data.samplers import EpochSampler, RoiSampler

SIZE = (200, 300)


def spread(count):
    """Boxes of 20 x 30 pixels that do not touch each other."""
    return np.float32([[5 + 28 * n, 40, 25 + 28 * n, 70] for n in range(count)])


@given(st.integers(1, 10), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_every_image_gives_k_rois_of_eligible_targets_each_once_before_any_is_repeated(count, k, seed):
    rng = np.random.default_rng(seed)
    eligible = np.sort(rng.choice(count, rng.integers(0, count + 1), replace=False))
    rois, target_index = RoiSampler(k).sample(spread(count), eligible, rng, SIZE)
    assert rois.shape == (k * bool(len(eligible)), 4)
    assert rois.dtype == np.float32
    assert target_index.shape == rois.shape[:1]
    assert set(target_index) <= set(eligible)
    assert len(set(target_index[: min(k, len(eligible))])) == min(k, len(eligible))


def test_repeated_draws_are_always_jittered():
    boxes = spread(2)
    sampler = RoiSampler(6, jitter_share=0.0)
    for seed in range(20):
        rois, target_index = sampler.sample(boxes, np.arange(2), np.random.default_rng(seed), SIZE)
        np.testing.assert_array_equal(rois[:2], boxes[target_index[:2]])
        assert (rois[2:] != boxes[target_index[2:]]).any(axis=1).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_jittered_draws_is_as_asked(share):
    boxes = spread(8)
    rng = np.random.default_rng(0)
    sampler = RoiSampler(8, jitter_share=share)
    moved = []
    for _ in range(250):
        rois, target_index = sampler.sample(boxes, np.arange(8), rng, SIZE)
        moved += list((rois != boxes[target_index]).any(axis=1))
    assert np.mean(moved) == pytest.approx(share, abs=0.03)


@given(st.floats(0, 0.4), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_jitter_stays_within_its_bounds_and_the_input(center, scale, seed):
    boxes = np.float32([[50, 60, 90, 150], [100, 40, 160, 100], [0, 0, 40, 60], [250, 120, 300, 200]])
    sampler = RoiSampler(8, 1.0, center, scale)
    rois, target_index = sampler.sample(boxes, np.arange(4), np.random.default_rng(seed), SIZE)
    sides = (boxes[:, 2:] - boxes[:, :2])[target_index]
    slack = sides * (center + scale / 2) + 1e-3
    assert (rois >= 0).all()
    assert (rois <= [SIZE[1], SIZE[0]] * 2).all()
    assert (np.abs(rois[:, :2] - boxes[target_index, :2]) <= slack).all()
    assert (np.abs(rois[:, 2:] - boxes[target_index, 2:]) <= slack).all()
    assert (rois[:, 2:] - rois[:, :2] >= 2).all()


def test_a_jittered_box_that_would_be_too_thin_stays_exact():
    boxes = np.float32([[0, 10, 1.5, 40], [100, 10, 101, 11]])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rois, target_index = RoiSampler(4, 1.0, 0.3, 0.3).sample(boxes, np.arange(2), rng, SIZE)
        thin = (rois[:, 2:] - rois[:, :2]).min(axis=1) < 2
        np.testing.assert_array_equal(rois[thin], boxes[target_index[thin]])


def drawn_shares(sampler, eligible):
    rng = np.random.default_rng(1)
    target_index = np.concatenate([sampler.sample(CROWDED, eligible, rng, SIZE)[1] for _ in range(3000)])
    return np.bincount(target_index, minlength=len(CROWDED)) / len(target_index)


# two boxes that cover half of each other, two alone
CROWDED = np.float32([[0, 0, 40, 40], [20, 0, 60, 40], [100, 100, 140, 140], [200, 100, 240, 140]])


@pytest.mark.parametrize("hard_weight", [0.0, 2.0, 6.0])
def test_a_crowded_instance_is_drawn_as_much_more_often_as_asked(hard_weight):
    weights = 1 + hard_weight * np.array([0.5, 0.5, 0, 0])
    shares = drawn_shares(RoiSampler(1, hard_weight=hard_weight), np.arange(4))
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.02)


def test_instances_that_are_no_roi_still_make_others_hard():
    shares = drawn_shares(RoiSampler(1, hard_weight=2.0), np.array([0, 2]))
    np.testing.assert_allclose(shares, [2 / 3, 0, 1 / 3, 0], atol=0.02)


LENGTHS = [(10, 1), (11, 2), (7, 3), (3, 3), (3, 4), (1, 8), (5, 64)]


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


@pytest.mark.parametrize(("length", "world"), LENGTHS)
def test_training_shares_are_equal_and_cover_everything(shares, length, world):
    found = shares(world, length, 0, shuffle=True, epoch=2)
    assert not any(idle for idle, _ in found)
    assert len({len(share) for _, share in found}) == 1
    together = [n for _, share in found for n in share]
    assert set(together) == set(range(length))
    assert len(together) < length + world  # nothing more than the last round is repeated


@pytest.mark.parametrize(("length", "world"), LENGTHS)
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


@pytest.mark.parametrize(("length", "world"), LENGTHS)
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


@pytest.mark.parametrize(("length", "world"), LENGTHS)
def test_an_order_that_is_not_shared_is_whole_on_every_process(length, world, shares):
    assert shares(world, length, 3, shuffle=False, shared=False) == [(False, list(range(length)))] * world
