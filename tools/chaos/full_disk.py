"""Fill the disk at every stage of every command: `python -m tools.chaos.full_disk [STEPS [COMMAND...]]`.

Each command writes to a disk of its own, which is too small: STEPS sizes from a page to a page less than what it
needs, and for a training also a full disk under each kind of output alone. It must end in one line that names what
could not be written and says that the disk is full, with code 2, and leave neither half of a file nor a temporary
one. Once there is room, the same command (a training with `ckpt_path=last`) must end well, a training with the very
results of one that was never stopped. What is only a saving (feature cache, annotation index) must not end it.

Ends with code 1 if anything is otherwise, with 77 where mounting is not allowed.
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

# kind of output of a training: its folder, bytes and files of the disk there, and does a training go on without it?
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
    """What came of the cases of one command."""

    cases: int = 0
    one_line: int = 0  # ended in one line that says the disk is full
    warned: int = 0  # went on without a saving, with a warning
    went_on: int = 0  # ended well once there was room
    compared: int = 0
    named: Counter = field(default_factory=Counter)  # what the line names
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
        saving: the command ends well all the same, with a warning.
    """

    name: str
    command: str
    arguments: list[str]
    folder: Path
    disk: Path
    saving: bool = False

    def run(self, report: Report) -> None:
        """Fill the disk, look, make room, look again."""
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
    """The kind of file that a line is about."""
    path = re.search(r"/\S+", line)
    name = Path(path[0]).name if path else ""
    return re.sub(r"[\d_x]{3,}", "*", Path(name).stem) + Path(name).suffix if name else line[:40]


def before() -> None:
    """In every process: the feature cache believes that there is room, as where others fill the disk meanwhile."""
    usage = SimpleNamespace(free=1 << 40)
    disk.shutil = SimpleNamespace(disk_usage=lambda folder: usage, rmtree=shutil.rmtree)  # type: ignore[attr-defined]


def sizes(used: int, steps: int) -> list[int]:
    """Sizes below `used` bytes, whole pages: one page, one less than enough, and some between."""
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
    """How many bytes a command writes; and what a training gives."""
    with mounts.small_disk(place, ROOM):
        outcome = forked.run(command, make(place), place, before)
        if outcome.code:
            raise RuntimeError(f"{name} fails with room: {outcome.output}")
        return shutil.disk_usage(place).used, Run(place, []).results() if command == "train" else {}


def compare(expected: dict[str, object], place: Path, report: Report) -> None:
    """Is everything of a training that went on as in the one that was never stopped?"""
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
