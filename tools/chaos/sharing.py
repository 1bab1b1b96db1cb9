"""Concurrent trainings that share a feature cache, an annotation index and a data set made on first use."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roiseg.common.files import is_leftover
from tools.chaos.at_once import Job, run_at_once
from tools.chaos.kills import Results, Run, same
from tools.chaos.whole import half_written

PROCESSES = 8
TRAIN, VAL = 6, 4  # images
CODECS = ("Half", "Int8")


@dataclass
class Found:
    """What came of a case."""

    processes: int = 0
    killed: int = 0
    compared: int = 0  # results
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, holds: object, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def compare(self, name: str, expected: Results, found: Results) -> None:
        """Note whatever is not as expected, to the last bit."""
        keys = sorted(expected.keys() | found.keys())
        self.compared += len(keys)
        different = [key for key in keys if not same(expected.get(key), found.get(key))]
        self.problems += [f"{name} differs: {key}" for key in different]

    def look_through(self, folder: Path) -> None:
        """Note files that are not whole, and temporary ones that no kill explains."""
        self.problems += [f"half written: {path}" for path in half_written(folder)]
        left = [p for p in folder.rglob("*") if p.suffix == ".tmp" or is_leftover(p)]
        if self.killed:
            self.notes.append(f"{len(left)} temporary files of the killed")
        self.check(len(left) <= self.killed, f"temporary files: {left}")


@dataclass(frozen=True)
class Sharing:
    """How trainings share.

    Attributes:
        budget: of the cache, in images' features.
        codecs: dealt out in turn. The features of each lie in a folder of their own, and make room for others'.
        kills: shares of a training's time after which the first ones are killed.
        deletions: how often the whole cache is deleted meanwhile.
    """

    budget: float = 1000
    codecs: Sequence[str] = CODECS[:1]
    kills: Sequence[float] = ()
    deletions: int = 0


def training(folder: Path, shared: Path, budget_gb: float = 1.0, codec: str = "Half") -> list[str]:
    """Return overrides of a short run that creates missing data and extractor files."""
    return [
        f"paths.data_dir={shared}/data", f"paths.extractor_dir={shared}/extractor",
        f"data.source.train_images={TRAIN}", f"data.source.val_images={VAL}", "data.num_workers=0",
        "data.batch_size=2", "data/augment=null", "data/cache=disk", f"data.cache.budget_gb={budget_gb}",
        f"data.cache.codec._target_=roiseg.extractor.cache.codec.{codec}", "model.mid_channels=16",
        "model.min_channels=8", "model.depth=1", "trainer=cpu", "trainer.max_epochs=2", "logger=csv",
        "~callbacks.onnx_export", f"paths.root_dir={folder}", f"paths.output_dir={folder}/out",
        f"paths.checkpoint_dir={folder}/ckpt",
    ]  # fmt: skip


class Alone:
    """The same trainings one after the other, each with everything of its own.

    Attributes:
        results: by codec.
        seconds: of processor time that one takes.
        file_bytes: of an image's features in the first codec.
    """

    def __init__(self, folder: Path) -> None:
        self.results: dict[str, Results] = {}
        for codec in reversed(CODECS):
            place = folder / f"alone{codec}"
            job = Job("train", training(place, place / "shared", codec=codec), place)
            run_at_once([job])
            if job.code != 0:
                raise RuntimeError(job.output)
            self.results[codec] = Run(place, []).results()
            self.seconds = job.seconds
            (about,) = (place / "shared/data/feature_cache").glob("*/about.json")
            self.file_bytes = int(json.loads(about.read_text())["file_bytes"])


def share(folder: Path, alone: Alone, how: Sharing) -> Found:
    """Let PROCESSES trainings below `folder` share everything, from nothing on."""
    shared, budget = folder / "shared", how.budget * alone.file_bytes
    jobs = [
        Job("train", training(place, shared, budget / 1e9, codec), place)
        for number in range(PROCESSES)
        for place, codec in [(folder / f"run{number}", how.codecs[number % len(how.codecs)])]
    ]
    for job, kill in zip(jobs, how.kills, strict=False):
        job.kill_after = kill * alone.seconds
    watch = Watch(shared / "data/feature_cache", how.deletions)
    run_at_once(jobs, watch)
    found = Found(len(jobs), sum(job.killed for job in jobs))
    computed = 0
    for number, job in enumerate(jobs):
        name = job.folder.name
        if not job.killed and job.code != 0:
            found.check(False, f"{name} ended with {job.code}:\n{job.output[-3000:]}")
        elif not job.killed:
            expected = alone.results[how.codecs[number % len(how.codecs)]]
            found.compare(name, expected, Run(job.folder, []).results())
            counts = json.loads((job.folder / "out/summary.json").read_text())["feature_cache"]
            found.check(not counts["damaged"], f"{name} read damaged features")
            computed += counts["computed"]
    found.look_through(folder)
    if not found.killed:
        found.notes.append(f"{computed / (TRAIN + VAL):.1f} extractor runs an image")
    found.notes.append(f"cache {watch.most / alone.file_bytes:g} of {how.budget:g} files at most")
    if how.deletions:
        found.notes.append(f"deleted {how.deletions - watch.left} times")
    return found


class Watch:
    """Measures a cache while it is in use, and deletes it now and then."""

    def __init__(self, folder: Path, deletions: int) -> None:
        self.folder, self.left, self.most = folder, deletions, 0

    def __call__(self) -> None:
        size = 0
        with contextlib.suppress(OSError):  # deleted meanwhile
            size = sum(p.stat().st_size for p in self.folder.glob("[0-9a-f]*/??/*") if p.suffix != ".tmp")
        self.most = max(self.most, size)
        if self.left and size:
            self.left -= 1
            shutil.rmtree(self.folder, ignore_errors=True)
