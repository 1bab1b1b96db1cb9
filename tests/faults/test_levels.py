"""Would growth be seen?"""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from operator import attrgetter

import numpy as np
import pytest

from tools.chaos.levels import Level, descendants, is_flat, slope

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what processes hold is read from /proc")


def levels(values):
    return [Level(10 * n, 0, 0, float(value), 0, 0, 0, 0, {}, {}) for n, value in enumerate(values)]


def test_what_is_open_and_runs_is_counted(tmp_path):
    before, end = Level.now(0), threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(30)]  # far more than other tests may leave
    for thread in threads:
        thread.start()
    with ExitStack() as stack:
        streams = [stack.enter_context((tmp_path / str(n)).open("w")) for n in range(30)]
        print("content", file=streams[0], flush=True)
        child = stack.enter_context(subprocess.Popen(["sleep", "60"]))
        after, children = Level.now(1, {"here": tmp_path}), descendants(os.getpid())
        child.kill()
    end.set()
    assert 15 < after.handles - before.handles < 45
    assert 15 < after.threads - before.threads < 45
    assert child.pid in children
    assert after.children == len(children)
    assert after.workers_handles > 0
    assert (after.files, after.size) == ({"here": 30}, {"here": 8})


def test_a_slope_is_that_of_the_second_half_and_its_interval_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        noise = rng.normal(0, 2, 300)
        steps = np.arange(300) * 10
        rise, half = slope(
            levels(np.maximum(1500, steps) * 0.003 + noise), attrgetter("own")
        )  # 3 per 1,000 steps
        covered += abs(rise - 3) < half
    assert 180 <= covered <= 198


@pytest.mark.parametrize(("values", "flat"), [
    ([3] + [9] * 20, True),  # the first is before everything has started
    (np.tile([5, 6, 7], 7), True), (np.arange(21), False),
    (np.arange(21) // 5 * 3 + np.tile([0, 1, 2], 7), False),  # grows now and then
    ([9] * 10 + [4] * 10, True),
])  # fmt: skip
def test_a_count_that_goes_up_and_down_is_told_from_one_that_grows(values, flat):
    assert is_flat(levels(values), attrgetter("own")) == flat
