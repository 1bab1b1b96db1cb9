from __future__ import annotations

import pytest
import torch
from child_processes import CHILDREN, PATIENCE

from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.cache.codec import Half
from roiseg.extractor.cache.memory import MemoryCache

SHAPE = (2, 3, 3)
BYTES = 36


def opened(rows=4):
    cache = MemoryCache(Half(), rows * BYTES / 1e9)
    cache.open("detector", [SHAPE])
    return cache


def key(name, fingerprint=0):
    return CacheKey.of(name, fingerprint)


def row(value):
    return torch.full((1, BYTES), value, dtype=torch.uint8)


def test_what_is_stored_is_held_and_comes_back():
    cache = opened()
    assert not cache.get(key("a")).hit
    rows = torch.cat([row(1), row(2)])
    cache.store([key("a"), key("b")], rows)
    rows.fill_(9)  # what is stored is a copy
    assert [cache.get(key(name)).hit for name in "abc"] == [True, True, False]
    assert torch.equal(cache.load([key("b"), key("a")], torch.zeros(0, 0)), torch.cat([row(2), row(1)]))


def test_another_content_is_absent_and_takes_the_place():
    cache = opened(rows=1)
    cache.store([key("a", 1)], row(1))
    assert not cache.get(key("a", 2)).hit
    cache.store([key("a", 2)], row(2))
    assert cache.get(key("a", 2)).hit
    assert not cache.get(key("a", 1)).hit
    assert torch.equal(cache.load([key("a", 2)], torch.zeros(0, 0)), row(2))
    assert cache.counts["rejected"] == 0


def test_a_full_cache_keeps_what_it_has():
    cache = opened(rows=500)
    for number in range(510):
        cache.store([key(number)], row(number % 251))
    assert [cache.get(key(number)).hit for number in range(510)] == [True] * 500 + [False] * 10
    assert cache.counts["rejected"] == 10


def _see(cache, go, answers):
    go.wait(PATIENCE)
    answers.put(([cache.get(key(name)).hit for name in "ab"], len(cache._rows)))


@pytest.mark.slow  # starts a process
def test_loader_processes_see_what_is_stored_after_they_started():
    cache = opened()
    cache.store([key("x")], row(0))
    go, answers = CHILDREN.Event(), CHILDREN.Queue()
    process = CHILDREN.Process(target=_see, args=(cache, go, answers))
    process.start()
    cache.store([key("a")], row(1))
    go.set()
    held, rows_there = answers.get(timeout=PATIENCE)
    process.join()
    assert held == [True, False]
    assert rows_there == 0  # it gets the table, not the features


def test_a_plan_that_does_not_fit_is_announced_with_its_size(caplog):
    opened(rows=10).plan(10)
    assert not caplog.records
    opened(rows=10).plan(1000)
    assert "1000 images" in caplog.text
    assert "1 %" in caplog.text
