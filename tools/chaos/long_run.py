"""Run for a long time and check that nothing grows: `python -m tools.chaos.long_run [STEPS]`.

A training of STEPS optimiser steps (default 10,000) with validation, overlays and a checkpoint every 30 of
them; then STEPS / 5 images and STEPS / 5 frames of a video through a predictor, and STEPS / 20 requests
to the page; each in its own process. Exit code 1 if handles, threads, children, memory, outputs or the
processor time per step grow. Memory and time are not judged below 2,000 steps.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import itertools
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from rich.table import Table

import roiseg.train
from roiseg.common.console import console
from roiseg.inference.checkpoint_folder import newest_checkpoint
from tests.helpers import make_onnx, person, write_coco
from tools.chaos import long_use
from tools.chaos.kills import command
from tools.chaos.levels import GROWTH, Level, is_flat, read_levels, slope

P = ParamSpec("P")
T = TypeVar("T")

IMAGES = 60
BATCH = 2
KEPT = 3  # checkpoints
MORE = 1.1  # an epoch of the second half may write this many times what one of the first does
JUDGED = 2000  # steps from which on memory and speed are judged
SLOWER = 1.25  # the second half may take this many times the processor time of the first


@dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    what: str
    told: str
    good: bool


def train(steps: int, folder: Path) -> list[Level]:
    """Train in a separate process in `folder`; return its resources at the start of every epoch."""
    data = folder / "data"
    data.mkdir()
    make_onnx(data / "tiny.onnx")
    rng = np.random.default_rng(0)
    people = [
        {"file": f"{n:03d}.jpg", "segmentation": person(float(x), 6.0, float(rng.integers(40, 80)))}
        for n in range(IMAGES)
        for x in ((30, 62) if n % 2 else (45,))
    ]
    train_set = write_coco(data, {f"{n:03d}.jpg": (96, 96) for n in range(IMAGES)}, people)
    val_set = write_coco(
        data / "val", {f"{n:03d}.jpg": (96, 96) for n in range(6)}, [p for p in people if p["file"] < "006"]
    )
    places = {
        "tensorboard": f"{folder}/out/tensorboard", "csv": f"{folder}/out/csv",
        "overlays": f"{folder}/out/overlays", "checkpoints": f"{folder}/ckpt",
    }  # fmt: skip
    arguments = [
        *command(data, folder, export=False),
        f"data.val_annotations={val_set.json}", f"data.val_images={val_set.images}",
        f"data.train_annotations={train_set.json}", f"data.train_images={train_set.images}",
        "data.num_workers=2", f"trainer.max_epochs={steps // (IMAGES // BATCH)}",
        "logger=[tensorboard,csv]", f"callbacks.checkpoint.keep={KEPT}", "extractor.threads=1",
        "+callbacks.watch._target_=tools.chaos.levels.Watch", f"+callbacks.watch.path={folder}/levels",
        "+callbacks.watch.every_n_epochs=1",
        *(f"+callbacks.watch.folders.{name}={place}" for name, place in places.items()),
    ]  # fmt: skip
    in_a_process(steps, _train, arguments, folder)
    return read_levels(folder / "levels")


def _train(arguments: list[str], folder: Path) -> None:
    multiprocessing.set_start_method(None, force=True)  # loaders start as they do elsewhere
    os.chdir(folder)
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv[1:] = arguments
    roiseg.train.main()


def in_a_process(steps: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, so that memory is measured from the start."""
    context = multiprocessing.get_context("spawn" if steps >= JUDGED else "fork")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args, **kwargs).result()


# --- verdict --------------------------------------------------------------------------------------


def judge(levels: Sequence[Level], steps: int) -> list[Finding]:
    """Return the findings about growth."""
    counts: dict[str, Callable[[Level], float]] = {
        "file handles": lambda level: level.handles,
        "file handles of workers": lambda level: level.workers_handles,
        "threads": lambda level: level.threads,
        "child processes": lambda level: level.children,
    }
    findings = [
        Finding(name, f"{value(levels[1]):.0f} .. {value(levels[-1]):.0f}", is_flat(levels, value))
        for name, value in counts.items()
    ]
    for name, value in (("own memory", lambda at: at.own), ("resident memory", lambda at: at.resident)):
        rise, half = slope(levels, value)
        told = f"{value(levels[-1]):.0f} MB"
        told += f", {rise:+.2f} +- {half:.2f} MB per 1,000 steps" * (steps >= JUDGED)
        sure = (rise - half) * levels[-1].step / 2000  # MB over the second half
        findings.append(Finding(name, told, steps < JUDGED or sure < GROWTH))
    early, late = (pace(half) for half in (levels[1 : len(levels) // 2 + 1], levels[len(levels) // 2 :]))
    told = f"{100 * early:.2f} s per 100 steps in the first half, {100 * late:.2f} s in the second"
    findings.append(Finding("processor time", told, steps < JUDGED or late < SLOWER * early))
    return findings + judge_outputs(levels)


def judge_outputs(levels: Sequence[Level]) -> list[Finding]:
    """Check that an epoch adds at most one file, a constant size, and nothing to the count of appended files."""
    findings = []
    for name in levels[-1].files:
        half = len(levels) // 2
        first, second = (
            (levels[last].size[name] - levels[begin].size[name]) / (half - 1)
            for begin, last in ((1, half), (-half, -1))
        )
        told = (
            f"{levels[-1].files[name]} files, {levels[-1].size[name] / 1e6:.2f} MB; an epoch adds "
            f"{first / 1e3:.2f} kB in the first half, {second / 1e3:.2f} kB in the second"
        )
        number = {"tensorboard": 2, "csv": 2, "checkpoints": KEPT, "overlays": len(levels) - 1}[name]
        findings.append(Finding(name, told, levels[-1].files[name] <= number and second < MORE * first))
    return findings


def pace(levels: Sequence[Level]) -> float:
    """Return the median processor seconds per step."""
    return statistics.median(
        (b.seconds - a.seconds) / (b.step - a.step) for a, b in itertools.pairwise(levels)
    )


def show(title: str, levels: Sequence[Level], findings: Sequence[Finding]) -> None:
    """Print ten of the samples, and the verdict."""
    table = Table(title=title)
    names = ("step", "CPU s per 100", "resident MB", "own MB", "handles", "workers'", "threads", "children")
    for name in (*names, *(f"{folder} kB" for folder in levels[-1].size)):
        table.add_column(name, justify="right")
    chosen = np.unique(np.linspace(0, len(levels) - 1, 11).round().astype(int))
    for before, number in zip([None, *chosen], chosen, strict=False):
        at = levels[number]
        between = "" if before is None else f"{100 * pace(levels[before : number + 1]):.2f}"
        table.add_row(
            f"{at.step:,}", between, f"{at.resident:.0f}", f"{at.own:.1f}", str(at.handles),
            str(at.workers_handles), str(at.threads), str(at.children),
            *(f"{size / 1e3:,.0f}" for size in at.size.values()),
        )  # fmt: skip
    console.print(table)
    for finding in findings:
        verdict = "[green]flat[/]" if finding.good else "[red]GROWS[/]"
        console.print(f"{finding.what}: {finding.told}: {verdict}", highlight=False, soft_wrap=True)


def main() -> int:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    sys.argv[1:] = []
    with tempfile.TemporaryDirectory(prefix="roiseg-long-") as place:
        folder = Path(place)
        verdicts = [report(f"training of {steps:,} steps", train(steps, folder), steps)]
        checkpoint = newest_checkpoint(folder / "ckpt")
        assert checkpoint is not None
        for name, use, number in (
            ("images through a predictor", long_use.pictures, steps // 5),
            ("frames of a video", long_use.frames, steps // 5),
            ("requests to the page", long_use.requests, steps // 20),
        ):
            levels = in_a_process(steps, use, checkpoint, number)
            verdicts.append(report(f"{name} ({number:,})", levels, steps))
    return 0 if all(verdicts) else 1


def report(title: str, levels: list[Level], steps: int) -> bool:
    """Print the samples and the verdict; return whether nothing grows."""
    findings = judge(levels, steps)
    show(title, levels, findings)
    return all(finding.good for finding in findings)


if __name__ == "__main__":
    sys.exit(main())
