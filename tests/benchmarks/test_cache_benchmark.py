from __future__ import annotations

import pytest

from benchmarks import cache

pytestmark = pytest.mark.slow


def test_every_stored_row_is_read_back_in_every_round(tmp_path):
    held, keys = cache.fill(tmp_path, (4, 5, 6), images=7)
    for cold in (False, True):
        floor, ours = cache.against_bare_reads(held, keys, rounds=2, cold=cold)
        assert len(floor) == len(ours) == 2
        assert min(floor + ours) > 0


def test_bare_reads_read_whole_files(tmp_path):
    held, keys = cache.fill(tmp_path, (4, 5, 6), images=3)
    paths = [held.path(key) for key in keys]
    buffer = bytearray(paths[0].stat().st_size)
    cache.bare(paths, buffer)
    assert bytes(buffer) == paths[-1].read_bytes()
