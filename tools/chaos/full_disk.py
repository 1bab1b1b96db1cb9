"""Fill the disk at every stage of every command: `python -m tools.chaos.full_disk [STEPS [COMMAND...]]`.

Each command writes to its own disk, which is too small: STEPS sizes from one page to one page less than it needs;
for training also a full disk under each kind of output alone. It must end with one line that names the file and says
that the disk is full, with code 2, and leave neither partial nor temporary files. Once there is space, the same
command (training with `ckpt_path=last`) must succeed, and training must give the results of an uninterrupted run.
A full disk under the feature cache or annotation index must not end it.

Exit code 1 on failure, 77 if mounting is not allowed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from rich.table import Table

from roiseg.common.console import console, track
from roiseg.extractor.cache import disk
from tools.chaos import forked, mounts
from tools.chaos.every_command import Inputs, commands
from tools.chaos.kills import Run, same
from tools.chaos.whole import half_written

PAGE = 4096
FULL = "the disk is full|make room"
ROOM, FILES = 1 << 28, 10_000  # bytes and files of a disk that is large enough

# kind of output of a training: its folder, bytes and files of its disk, and whether training continues without it
KINDS = {
    "checkpoints": ("ckpt", (PAGE, FILES), False),
    "config.yaml": ("out", (PAGE, FILES), False),
    "overlays": ("out/overlays", (PAGE, FILES), False),
    "TensorBoard": ("out/tensorboard", (PAGE, FILES), False),
    "TensorBoard later": ("out/tensorboard", (8 * PAGE, FILES), False),
    "csv": ("out/csv", (PAGE, FILES), False),
    "csv later": ("out/csv", (2 * PAGE, FILES), False),
    "ONNX": ("out/onnx", (PAGE, FILES), False),
    "feature cache opened": ("data/feature_cache", (ROOM, 100), True),
    "feature cache filled": ("data/feature_cache", (6 * PAGE, FILES), True),
    "annotation index": ("data/index", (ROOM, 0), True),
}  # fmt: skip


@dataclass
class Report:
    """The results of the cases of one command."""

    cases: int = 0
    one_line: int = 0  # ended with one line about a full disk
    warned: int = 0  # continued without the cache or index, with a warning
    went_on: int = 0  # succeeded once there was space
    compared: int = 0
    named: Counter = field(default_factory=Counter)  # named in the line
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A command on a disk that is too small.

    Args:
        name: for the report.
        command: what to run.
        arguments: its command line.
        folder: where it starts and writes.
        disk: mounted below `folder`.
        saving: the command succeeds nevertheless, with a warning.
    """

    name: str
    command: str
    arguments: list[str]
    folder: Path
    disk: Path
    saving: bool = False

    def run(self, report: Report) -> None:
        """Fill the disk, check, free space, check again."""
        report.cases += 1
        outcome = forked.run(self.command, self.arguments, self.folder, before)
        left = [*half_written(self.folder), *forked.temporary_files(self.folder)]
        full = [line for line in outcome.errors if re.search(FULL, line) and str(self.folder) in line]
        if self.saving and outcome.code == 0 and "the disk is full" in outcome.output:
            report.warned += 1
        elif outcome.in_one_line and full:
            report.one_line += 1
            report.named[named(full[0])] += 1
        else:
            report.wrong.append(f"{self.name}: code {outcome.code}: {outcome.output[-3000:]}")
        report.wrong += [f"{self.name}: left {path}" for path in left]
        mounts.grow(self.disk, ROOM)
        again = ["ckpt_path=last"] if self.command == "train" else []
        outcome = forked.run(self.command, [*self.arguments, *again], self.folder, before)
        if outcome.code == 0:
            report.went_on += 1
        else:
            report.wrong.append(f"{self.name}, with room: code {outcome.code}: {outcome.output[-3000:]}")


def named(line: str) -> str:
    """Return the kind of file that a line names."""
    path = re.search(r"/\S+", line)
    name = Path(path[0]).name if path else ""
    return re.sub(r"[\d_x]{3,}", "*", Path(name).stem) + Path(name).suffix if name else line[:40]


def before() -> None:
    """Make the feature cache of every process assume free space, as if others filled the disk meanwhile."""
    usage = SimpleNamespace(free=1 << 40)
    disk.shutil = SimpleNamespace(disk_usage=lambda folder: usage, rmtree=shutil.rmtree)  # type: ignore[attr-defined]


def sizes(used: int, steps: int) -> list[int]:
    """Return sizes below `used` bytes in whole pages: one page, one less than enough, and some between."""
    pages = used // PAGE
    return sorted(
        {round(1 + (pages - 2) * n / max(1, steps - 1)) * PAGE for n in range(steps if used > PAGE else 0)}
    )


def fill(name: str, command: str, make: Callable[[Path], list[str]], folder: Path, steps: int) -> Report:
    """Run a command that writes below a folder on disks of several sizes."""
    report = Report()
    used, expected = uninterrupted(name, command, make, folder / "whole")
    rooms = {f"{size} bytes": (size, FILES) for size in sizes(used, steps)} | {"no files": (ROOM, 0)}
    for room, limits in track(list(rooms.items()), name):
        place = folder / room.replace(" ", "-")
        with mounts.small_disk(place, *limits):
            Case(f"{name} on {room}", command, make(place), place, place).run(report)
            compare(expected, place, report)
    for kind, (below, limits, saving) in track(list(KINDS.items() if expected else ()), "kinds of output"):
        place = folder / kind.replace(" ", "-")
        with mounts.small_disk(place / below, *limits):
            Case(kind, command, make(place), place, place / below, saving).run(report)
            compare(expected, place, report)
    return report


def uninterrupted(
    name: str, command: str, make: Callable[[Path], list[str]], place: Path
) -> tuple[int, dict[str, object]]:
    """Return the bytes a command writes, and the results of a training run."""
    with mounts.small_disk(place, ROOM):
        outcome = forked.run(command, make(place), place, before)
        if outcome.code:
            raise RuntimeError(f"{name} fails with room: {outcome.output}")
        return shutil.disk_usage(place).used, Run(place, []).results() if command == "train" else {}


def compare(expected: dict[str, object], place: Path, report: Report) -> None:
    """Tell whether a resumed training run equals the uninterrupted one."""
    if not expected:
        return
    try:
        found = Run(place, []).results()
    except (ValueError, OSError, json.JSONDecodeError) as error:
        report.wrong.append(f"{place.name}: no results ({error})")
        return
    keys = expected.keys() | found.keys()
    report.compared += len(keys)
    differing = [key for key in sorted(keys) if not same(expected.get(key), found.get(key))]
    report.wrong += [f"{place.name}: {key} differs" for key in differing]


def show(reports: dict[str, Report]) -> None:
    table = Table(title="A disk that gets full")
    for heading in ("", "cases", "one line", "warning", "with room: well", "results alike", "wrong"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = [*reports.items(), ("all", total(list(reports.values())))]
    for name, report in rows:
        figures = (
            report.cases,
            report.one_line,
            report.warned,
            report.went_on,
            report.compared,
            len(report.wrong),
        )
        table.add_row(name, *map(str, figures))
    console.print(table)
    files = total(list(reports.values())).named
    console.print(
        "named: " + ", ".join(f"{name} {count}" for name, count in files.most_common()), soft_wrap=True
    )
    for report in reports.values():
        for line in report.wrong:
            console.print(line, soft_wrap=True, markup=False)


def total(reports: list[Report]) -> Report:
    found = Report()
    for report in reports:
        for name, value in vars(report).items():
            setattr(found, name, getattr(found, name) + value)
    return found


def main() -> int:
    mounts.enter("tools.chaos.full_disk")
    steps, chosen = int((sys.argv[1:] or ["12"])[0]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as root:
        inputs = Inputs(Path(root))
        reports = {}
        for name, (command, make) in commands(inputs).items():
            if not chosen or name in chosen:
                folder = Path(root) / name.replace(" ", "-")
                folder.mkdir()
                reports[name] = fill(name, command, make, folder, steps)
    show(reports)
    return int(any(report.wrong for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())
