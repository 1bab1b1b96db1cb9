"""Many processes at once: `python -m tools.chaos.concurrency [ROUNDS [SEED [CASE...]]]`.

Trainings that share a cache, an index and a data set; commands that write to one place; sweeps, process groups
and pages on one machine. Every result must equal that of a single process bit for bit, every file must be
complete, and no process may hang. ROUNDS (default 1) repeats each case; SEED sets the times of kills. Exit code 1 on failure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import onnxscript  # noqa: F401  imported here once, not in every process
from rich.table import Table

import roiseg.train  # noqa: F401
from roiseg.common.console import console, track
from tools.chaos.launches import groups, pages, sweep
from tools.chaos.one_place import going_on, one_output, same_folders
from tools.chaos.sharing import CODECS, Alone, Found, Sharing, share

Case = Callable[[Path], Found]


def cases(rng: random.Random, folder: Path) -> dict[str, Case]:
    """Return the cases by name; the reference runs are made when the first case needs them."""
    made: list[Alone] = []

    def sharing(**how: object) -> Case:
        def case(place: Path) -> Found:
            made[:] = made or [Alone(folder / "alone")]
            return share(place, made[0], Sharing(**how))  # type: ignore[arg-type]

        return case

    kills = [rng.random() for _ in range(4)]
    return {
        "sharing": sharing(),
        "sharing a full cache": sharing(budget=4.5),
        "evicting each other": sharing(budget=4.5, codecs=CODECS),
        "cache deleted": sharing(deletions=3),
        "four killed": sharing(kills=kills),
        "one folder": same_folders,
        "going on": going_on,
        "going on, killed": lambda place: going_on(place, rng.random()),
        "one output": one_output,
        "sweep": sweep,
        "process groups": groups,
        "pages": pages,
    }


def main() -> int:
    words = sys.argv[1:]
    rounds, seed = (int(word) for word in (*words[:2], *("1", "0")[len(words[:2]) :]))
    sys.argv[1:] = []
    table = Table(title="At the same time")
    for name in ("case", "processes", "killed", "results compared", "problems", ""):
        table.add_column(name, justify="left" if name in ("case", "") else "right", overflow="fold")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        named = cases(random.Random(seed), Path(folder))
        todo = [(name, number) for name in words[2:] or named for number in range(rounds)]
        found: dict[str, list[Found]] = {}
        for name, number in track(todo, "cases"):
            place = Path(folder, f"{name}{number}".replace(" ", "_").replace(",", ""))
            place.mkdir()
            try:
                each = named[name](place)
            except Exception:  # the other cases continue
                each = Found(problems=[traceback.format_exc()])
            found.setdefault(name, []).append(each)
        for name, several in found.items():
            counts = (sum(getattr(f, what) for f in several) for what in ("processes", "killed", "compared"))
            bad = [problem for f in several for problem in f.problems]
            notes = dict.fromkeys(note for f in several for note in f.notes)
            table.add_row(name, *map(str, counts), str(len(bad)), "; ".join(notes))
            problems += [f"{name}: {problem}" for problem in bad]
    console.print(table)
    for problem in problems:
        console.print(problem, soft_wrap=True, markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
