"""A disk cache with as many entries as COCO has images: filling, opening, reading, kill, damage.

`python -m benchmarks.cache_scale`; the entries are int8 features of few channels, so that all of them fit on
a disk (`--channels 128` gives those of `experiment=coco_person_compact`, 53 GB). The folder is removed.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import torch

from benchmarks.cache import forget
from benchmarks.coco_like import IMAGES
from benchmarks.memory import Memory, fresh
from benchmarks.report import machine, show
from roiseg.common.console import console
from roiseg.extractor.cache.base import CacheKey
from roiseg.extractor.cache.codec import Int8
from roiseg.extractor.cache.disk import DiskCache
from roiseg.extractor.cache.folders import size_of

SIDE = 80  # cells of the features
BATCH = 8  # images stored together
SAMPLE = 2000  # random reads
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Setting:
    """What is stored where."""

    folder: Path
    entries: int
    channels: int

    def open(self) -> DiskCache:
        """Return the opened cache, as a run opens it."""
        cache = DiskCache(self.folder, Int8(), budget_gb=1000)
        cache.open("benchmark", [(self.channels, SIDE, SIDE)])
        return cache

    def part(self) -> Path:
        """Return the extractor's folder in the cache."""
        (folder,) = (path for path in self.folder.iterdir() if path.is_dir())
        return folder

    def keys(self, first: int = 0, last: int | None = None) -> list[CacheKey]:
        """Return the keys of a range of entries."""
        return [CacheKey.of(number, 0) for number in range(first, self.entries if last is None else last)]

    def some(self, count: int, seed: int) -> list[CacheKey]:
        """Return random keys, each once."""
        numbers = random.Random(seed).sample(range(self.entries), min(count, self.entries))
        return [CacheKey.of(number, 0) for number in numbers]


# --- each in its own process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tenth:
    """A tenth of the entries: how many were found, how many stored, and the seconds."""

    hits: int
    stored: int
    seconds: float


def fill(setting: Setting, tell: Connection) -> None:
    """Store what is missing, as a first epoch does; `tell` gets every tenth, then the peak memory in MB."""
    cache, rows = setting.open(), Int8().pack([torch.randn(BATCH, setting.channels, SIDE, SIDE)])
    edges = [setting.entries * tenth // 10 for tenth in range(11)]
    for first, last in itertools.pairwise(edges):
        started, hits, missing = time.perf_counter(), 0, list[CacheKey]()
        for key in setting.keys(first, last):
            if cache.get(key).hit:
                hits += 1
                continue
            missing.append(key)
            if len(missing) == BATCH:
                cache.store(missing, rows)
                missing = []
        cache.store(missing, rows[: len(missing)])
        tell.send(Tenth(hits, last - first - hits, time.perf_counter() - started))
    tell.send(Memory.of().peak)


@dataclass(frozen=True)
class Reading:
    """Seconds of one process: of opening, of the listing in it, of single reads; memory around the reads."""

    opening: float
    listing: float
    first: float
    warm: list[float]  # from the page cache
    cold: list[float]  # from the disk
    damaged: float  # to find that an entry is damaged, and to remove it
    stored: float  # to store it again
    before: Memory
    after: Memory


def read(setting: Setting) -> Reading:
    """Open the cache three times, then read entries at random, first those of the page cache."""
    opening, listing = [], []
    for _ in range(3):
        started = time.perf_counter()
        cache = setting.open()
        opening.append(time.perf_counter() - started)
        started = time.perf_counter()
        size_of(setting.part())
        listing.append(time.perf_counter() - started)
    before = Memory.of()
    (first,) = _read(cache, setting.some(1, seed=0))
    warm = _read(cache, setting.some(SAMPLE, seed=1))
    after, others = Memory.of(), setting.some(SAMPLE, seed=2)
    forget([cache.path(key) for key in others])
    cold = _read(cache, others)
    return Reading(median(opening), median(listing), first, warm, cold, *damaged(setting), before, after)


def _read(cache: DiskCache, keys: Sequence[CacheKey]) -> list[float]:
    seconds = []
    for key in keys:
        started = time.perf_counter()
        if not cache.get(key).hit:
            raise ValueError("the cache lost features")
        seconds.append(time.perf_counter() - started)
    return seconds


_start: Barrier


def _meet(barrier: Barrier) -> None:
    global _start
    _start = barrier


def together(setting: Setting, seed: int) -> float:
    """Return the images per second of random reads that start together with those of other processes."""
    cache, keys = setting.open(), setting.some(SAMPLE, seed)
    _start.wait()
    return len(keys) / sum(_read(cache, keys))


def read_quietly(setting: Setting) -> Reading:
    """`read` in a process of its own, without a line for each damaged entry."""
    logging.disable(logging.WARNING)
    return read(setting)


def damaged(setting: Setting, count: int = 20) -> tuple[float, float]:
    """Return the median seconds to find that an entry is damaged, and to store it again."""
    cache, rows = setting.open(), Int8().pack([torch.randn(1, setting.channels, SIDE, SIDE)])
    finding, storing = [], []
    for key in setting.some(count, seed=3):
        with open(cache.path(key), "r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            last = stream.read(1)
            stream.seek(-1, os.SEEK_END)
            stream.write(bytes([last[0] ^ 1]))
        started = time.perf_counter()
        hit = cache.get(key).hit
        found = time.perf_counter()
        cache.store([key], rows)
        storing.append(time.perf_counter() - found)
        finding.append(found - started)
        if hit or not cache.get(key).hit:
            raise ValueError("damage was not found, or not repaired")
    return median(finding), median(storing)


# --- the table --------------------------------------------------------------------------------------------


def filled(setting: Setting, kill_after: int | None = None) -> tuple[list[Tenth], float]:
    """Fill the cache in a process; with `kill_after`, kill it in the tenth after so many.

    Returns:
        The tenths, and the process's peak memory in MB (0 if it was killed).
    """
    receive, send = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=fill, args=(setting, send))
    process.start()
    send.close()
    tenths: list[Tenth] = []
    peak = 0.0
    while len(tenths) < 10 if kill_after is None else len(tenths) < kill_after:
        tenths.append(receive.recv())
    if kill_after is None:
        peak = receive.recv()
    else:
        process.kill()
    process.join()
    return tenths, peak


def measure(setting: Setting) -> list[tuple[str, str]]:
    """Return the rows of the table."""
    killed, _ = filled(setting, kill_after=5)
    resumed, peak = filled(setting)
    rates = [tenth.stored / tenth.seconds for tenth in killed + resumed if not tenth.hits]
    kept = sum(tenth.hits for tenth in resumed)
    files = [entry.stat() for part in setting.part().glob("??") for entry in os.scandir(part)]
    content, blocks = sum(file.st_size for file in files), sum(512 * file.st_blocks for file in files)
    found = fresh(read_quietly, setting)
    alone = len(found.warm) / sum(found.warm)
    with ProcessPoolExecutor(2, SPAWN, _meet, (SPAWN.Barrier(2),)) as pool:
        both = sum(pool.map(together, [setting] * 2, [4, 5]))
    return [
        ("filling, each tenth in turn, images/s", " ".join(f"{rate:,.0f}" for rate in rates)),
        ("filling, last tenth / first", f"{rates[-1] / rates[0]:.2f}x"),
        ("peak memory of filling", f"{peak:.0f} MB"),
        (f"killed after {sum(t.stored for t in killed):,}; the next process finds", f"{kept:,}"),
        ("content; on the disk", f"{content / 1e9:.2f} GB; {blocks / 1e9:.2f} GB in {len(files):,} files"),
        ("opening; of that, listing", f"{1e3 * found.opening:.0f} ms; {1e3 * found.listing:.0f} ms"),
        ("first read", f"{1e3 * found.first:.2f} ms"),
        (f"{len(found.warm):,} random reads from the page cache", _quantiles(found.warm)),
        (f"{len(found.cold):,} random reads from the disk", _quantiles(found.cold)),
        (
            "memory of the process before, after the reads",
            f"{found.before.own:.0f}, {found.after.own:.0f} MB",
        ),
        ("its peak, all libraries included", f"{found.after.peak:.0f} MB"),
        ("random reads by one process; by two", f"{alone:,.0f}; {both:,.0f} images/s"),
        (
            "damaged entry: found and removed; stored again",
            f"{1e3 * found.damaged:.2f} ms; {1e3 * found.stored:.2f} ms",
        ),
    ]


def _quantiles(seconds: list[float]) -> str:
    """Describe times."""
    ordered = sorted(seconds)
    return f"{1e3 * median(ordered):.2f} ms, 99 % within {1e3 * ordered[len(ordered) * 99 // 100]:.2f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache_scale", description=__doc__)
    parser.add_argument("--entries", type=int, default=IMAGES, help="images")
    parser.add_argument("--channels", type=int, default=8, help=f"of the features, {SIDE}x{SIDE} cells each")
    parser.add_argument(
        "--folder", type=Path, help="where a temporary folder is made, on the disk to measure"
    )
    given = parser.parse_args(arguments)
    console.print(machine(), highlight=False)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        rows = measure(Setting(Path(name), given.entries, given.channels))
    title = f"A disk cache of {given.entries:,} images, {given.channels}x{SIDE}x{SIDE} in int8"
    show(title, ("", "measured"), rows)


if __name__ == "__main__":
    main()
