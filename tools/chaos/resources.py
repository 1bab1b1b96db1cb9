"""Limit memory, processors, shared memory and folders: `python -m tools.chaos.resources [NAME...]`.

A training must end well, or in one line that says what to do, with code 2, and leave nothing half-written and no
process; with the same command plus `ckpt_path=last` and everything there it must then end with the results of one
that was never stopped. Ends with code 1 if anything is otherwise, with 77 where mounting is not allowed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import contextlib
import multiprocessing
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from roiseg.common.console import console, track
from roiseg.training.module import RoiSegModule
from tools.chaos import forked, mounts
from tools.chaos.every_command import Inputs, train
from tools.chaos.kills import Run, same
from tools.chaos.whole import half_written

SHARED = Path("/dev/shm")
LOADERS = ["data.num_workers=2"]
NO_SHARED = "larger /dev/shm"
LESS_MEMORY = "lower data.batch_size"


@dataclass(frozen=True)
class Case:
    """What a command lacks, and how it must end.

    Args:
        words: of the one line it ends in, or, ending well, of what it prints.
        well: must it end well? None: it may.
        overrides: of its command line.
        command: the program.
        mount: of a folder below the run's, or elsewhere, while it runs.
        before: called in the new process.
    """

    words: str = ""
    well: bool | None = False
    overrides: tuple[str, ...] = ()
    command: str = "train"
    mount: Callable[[Path], AbstractContextManager] = lambda folder: contextlib.nullcontext()
    before: Callable[[], object] = lambda: None


def shared_memory(size: int) -> Callable[[Path], AbstractContextManager]:
    return lambda folder: mounts.small_disk(SHARED, size)


def read_only(below: str) -> Callable[[Path], AbstractContextManager]:
    def mount(folder: Path) -> AbstractContextManager:
        (folder / below).mkdir(parents=True, exist_ok=True)
        return mounts.read_only(folder / below)

    return mount


def killed_loader(step: str, number: int) -> Callable[[], None]:
    """Kill a loader process at step `number`."""

    def before() -> None:
        original, count = getattr(RoiSegModule, step), [0]

        def hooked(module, *given):
            count[0] += 1
            if count[0] == number:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            return original(module, *given)

        setattr(RoiSegModule, step, hooked)

    return before


def memory(megabytes: int) -> Callable[[], None]:
    """Limit memory to a number of megabytes above that of the process at the start."""

    def before() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return before


def environment(**values: str) -> Callable[[], None]:
    return lambda: os.environ.update(values)


def one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


CASES = {
    "loader process killed in training": Case(LESS_MEMORY, False, (*LOADERS,), before=killed_loader("training_step", 2)),
    "loader process killed in epoch 2": Case("last good checkpoint is", False, (*LOADERS,), before=killed_loader("training_step", 5)),
    "loader process killed in validation": Case(LESS_MEMORY, False, (*LOADERS,), before=killed_loader("validation_step", 1)),
    "shared memory of 4 kB": Case(NO_SHARED, False, (*LOADERS,), mount=shared_memory(4096)),
    "shared memory of 64 kB": Case(NO_SHARED, False, (*LOADERS,), mount=shared_memory(65536)),
    "shared memory of 1 MB": Case("", True, (*LOADERS,), mount=shared_memory(1 << 20)),
    "shared memory read-only": Case(NO_SHARED, False, (*LOADERS,), mount=lambda folder: mounts.read_only(SHARED)),
    "no shared memory, no loader processes": Case("", True, mount=lambda folder: mounts.read_only(SHARED)),
    "doctor, shared memory of 1 MB": Case("--shm-size", True, ("data.num_workers=1",), "doctor", shared_memory(1 << 20)),
    **{
        f"{size} MB of memory, {len(loaders) and 2} loader processes": Case(LESS_MEMORY, None, (*loaders,), before=memory(size))
        for size in (48, 64, 96, 128, 192) for loaders in ([], LOADERS)
    },
    "a memory cache of a billion GB": Case("budget_gb", True, ("data/cache=memory", "data.cache.budget_gb=1e9")),
    "one processor": Case("", True, (*LOADERS,), before=one_processor),
    "doctor, one processor": Case("data.num_workers=1", True, (*LOADERS,), "doctor", before=one_processor),
    "24 open files": Case("too many open files", None, (*LOADERS,), before=few_files),
    "no TMPDIR": Case("", True, (*LOADERS,), before=environment(TMPDIR="/nowhere")),
    "no HOME": Case("", True, (*LOADERS,), before=environment(HOME="/nowhere")),
    "current folder read-only": Case("cannot be written", mount=read_only(".")),
    "output folder read-only": Case("cannot be written", mount=read_only("out")),
    "checkpoint folder read-only": Case("cannot be written", mount=read_only("ckpt")),
    "overlay folder read-only": Case("overlays/validation", mount=read_only("out/overlays")),
    "TensorBoard folder read-only": Case("tensorboard", mount=read_only("out/tensorboard")),
    "cache folder read-only": Case("nothing more is stored", True, mount=read_only("data/feature_cache")),
    "index folder read-only": Case("no annotation index", True, mount=read_only("data/index")),
}  # fmt: skip


def check(
    name: str, case: Case, inputs: Inputs, folder: Path, expected: dict[str, object]
) -> tuple[str, list[str]]:
    """Run a case below `folder`; returns how it ended, and what is wrong."""
    folder.mkdir()
    arguments = train(inputs, folder, export=False)
    if case.command == "doctor":
        arguments = [a for a in arguments if not a.startswith("~")]
    with case.mount(folder):
        outcome = forked.run(case.command, [*arguments, *case.overrides], folder, case.before)
    ended_well = outcome.code == 0 and not outcome.orphans
    wrong = [f"{name}: left {path}" for path in (*half_written(folder), *forked.temporary_files(folder))]
    told = " ".join((outcome.output if ended_well else outcome.errors[0] if outcome.errors else "").split())
    fits = (
        ended_well
        if case.well
        else outcome.in_one_line
        if case.well is False
        else ended_well or outcome.in_one_line
    )
    if not fits or (case.words not in told and not (case.well is None and ended_well)):
        wrong.append(
            f"{name}: code {outcome.code}, processes left {outcome.orphans}: {outcome.output[-3000:]}"
        )
    if case.command == "train":
        if not ended_well:
            again = forked.run("train", [*arguments, *case.overrides, "ckpt_path=last"], folder)
            wrong += [f"{name}, again: {again.output[-3000:]}"] if again.code else []
        wrong += [f"{name}: {key} differs" for key in differing(expected, folder)]
    return "well" if ended_well else told.removeprefix("roiseg: error: "), wrong


def differing(expected: dict[str, object], folder: Path) -> list[str]:
    try:
        found = Run(folder, []).results()
    except (ValueError, OSError) as error:
        return [f"everything ({error})"]
    return [
        key for key in sorted(expected.keys() | found.keys()) if not same(expected.get(key), found.get(key))
    ]


def main() -> int:
    mounts.enter("tools.chaos.resources")
    chosen = sys.argv[1:] or list(CASES)
    table = Table(title="Commands that lack something")
    for heading in ("lacks", "ended"):
        table.add_column(heading, overflow="fold")
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        inputs = Inputs(Path(root))
        whole = Path(root) / "whole"
        whole.mkdir()
        outcome = forked.run("train", train(inputs, whole, export=False), whole)
        if outcome.code:
            raise RuntimeError(outcome.output)
        expected = Run(whole, []).results()
        for number, name in enumerate(track(chosen, "cases", len(chosen))):
            ended, found = check(name, CASES[name], inputs, Path(root) / f"case{number}", expected)
            table.add_row(name, ended)
            wrong += found
    console.print(table)
    console.print(f"cases: {len(chosen)}, results of a training: {len(expected)}, wrong: {len(wrong)}")
    for line in wrong:
        console.print(line, soft_wrap=True, markup=False)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
