"""Kill one process of a training: `python -m tools.chaos.group_kills [COUNT [SEED]]`.

Trainings with loader processes, on one process and on two (trainer=ddp). COUNT times (default 10) SIGKILL hits
the first process, the second, or a loader, at a random step. All other processes must end, every file must
be complete, and the run, resumed with `ckpt_path=last`, must equal an uninterrupted one bit for bit without
training a finished epoch again. Exit code 1 on failure.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import lightning as L
from rich.table import Table

from roiseg.common.console import console, track
from tests.helpers import ROOT, make_onnx, tiny_coco
from tools.chaos.forked import be
from tools.chaos.kills import EPOCHS, Results, Run, _running, command, same
from tools.chaos.levels import descendants
from tools.chaos.plans import Hooks
from tools.chaos.whole import half_written

STEPS = EPOCHS * (3 + 1)  # of training and validation
PATIENCE = 300  # seconds after which a process counts as hanging
WORKERS = ["data.num_workers=2"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "data.num_workers=1", "data.batch_size=1"]
VICTIMS = ("ddp second", "loader", "ddp first", "first", "ddp loader")


class Notes(L.Callback):
    """Appends `epoch RANK PID EPOCH` and `step RANK PID EPOCH` to a file as they happen.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def _note(self, what: str, trainer: L.Trainer) -> None:
        with open(self.path, "a") as stream:
            stream.write(f"{what} {trainer.global_rank} {os.getpid()} {trainer.current_epoch}\n")

    def on_train_epoch_start(self, trainer, pl_module):
        self._note("epoch", trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._note("step", trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._note("step", trainer)


@dataclass
class Kill:
    """The result of one kill."""

    victim: str
    step: int
    code: int = 0  # of the first process
    seconds: float = 0.0  # until every other process had ended
    left: list[str] = field(default_factory=list)  # command lines of those that had not
    half_written: list[Path] = field(default_factory=list)
    repeated: int = 0  # finished epochs that were trained again
    differing: list[str] = field(default_factory=list)

    @property
    def nothing_lost(self) -> bool:
        return not (self.left or self.half_written or self.repeated or self.differing)


@dataclass
class Job:
    """One training run in its own session."""

    folder: Path
    arguments: list[str]

    @classmethod
    def of(cls, data: Path, folder: Path, ddp: bool) -> Job:
        folder.mkdir()
        usual = command(data, folder, export=False)
        kept = [
            word
            for word in usual
            if not word.startswith(("data.num_workers", "data.batch_size=" * ddp or "-"))
        ]
        options = DDP if ddp else WORKERS
        notes = [
            "+callbacks.notes._target_=tools.chaos.group_kills.Notes",
            f"+callbacks.notes.path={folder}.notes",
        ]
        return cls(folder, [*(word for word in kept if word != "trainer=cpu" or not ddp), *options, *notes])

    @property
    def run(self) -> Run:
        return Run(self.folder, self.arguments)

    def start(self, *more: str) -> int:
        """Start it in a process forked from this one, which has imported everything; returns its number."""
        process = os.fork()
        if process == 0:
            os.environ["PYTHONPATH"] = str(ROOT)
            sys.modules["__main__"].__spec__ = find_spec("roiseg.train")  # what Lightning starts again
            log = os.open(self.run.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            hooks = Hooks(None, self.run.notes)
            be("train", [*self.arguments, *more], self.folder, log, hooks.install)
        return process

    def finish(self, *more: str) -> Results:
        """Start it and let it finish."""
        _, status = os.waitpid(self.start(*more), 0)
        if status:
            raise RuntimeError(f"the run failed ({status}):\n{self.run.log.read_text()[-4000:]}")
        return self.run.results()

    def notes(self, what: str) -> list[list[int]]:
        """Return [rank, process, epoch] of each."""
        path = self.folder.with_suffix(".notes")
        lines = path.read_text().splitlines() if path.exists() else []
        return [[int(word) for word in rest] for first, *rest in map(str.split, lines) if first == what]

    def kill(self, victim: str, step: int) -> Kill:
        """Start it, kill a process after a number of steps of the first, and wait for the others to end."""
        found, process = Kill(victim, step), self.start()
        while sum(rank == 0 for rank, _, _ in self.notes("step")) < step:
            if not _running(process):
                raise RuntimeError(f"the run ended too early:\n{self.run.log.read_text()[-4000:]}")
            time.sleep(0.01)
        ranks = {rank: number for rank, number, _ in self.notes("step")}
        hit = ranks[1 if victim == "ddp second" else 0]
        if victim.endswith("loader"):
            loaders = set(descendants(hit)) - set(ranks.values())
            hit = min(loaders) if loaders else hit
        os.kill(hit, signal.SIGKILL)
        start = time.perf_counter()
        while (left := _session(process)) and time.perf_counter() - start < PATIENCE:
            time.sleep(0.01)
        found.seconds = time.perf_counter() - start
        for number, line in left.items():
            found.left.append(line)
            os.kill(number, signal.SIGKILL)
        found.code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return found


def _session(number: int) -> dict[int, str]:
    """Return process -> command line of the running processes of a session."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")[:200]
        except (OSError, ProcessLookupError):
            continue
    return found


def kill(victims: list[str], seed: int, folder: Path) -> list[Kill]:
    """Kill each of `victims` in a separate training run below `folder`, and let that finish."""
    rng, data, kills = random.Random(seed), folder / "data", []
    data.mkdir()
    tiny_coco(data)
    make_onnx(data / "tiny.onnx")
    expected = {
        ddp: Job.of(data, folder / f"whole{ddp}", ddp).finish()
        for ddp in {victim.startswith("ddp") for victim in victims}
    }
    for number, victim in enumerate(track(victims, "kills")):
        ddp = victim.startswith("ddp")
        job = Job.of(data, folder / f"killed{number}", ddp)
        done = job.kill(victim, rng.randint(2, STEPS - 1))
        done.half_written = half_written(job.folder)
        finished = len(list((job.folder / "ckpt").glob("checkpoint*.pth")))
        begun = len(job.notes("epoch"))
        results = job.finish("ckpt_path=last")
        done.repeated = sum(epoch < finished for _, _, epoch in job.notes("epoch")[begun:])
        names = results.keys() | expected[ddp].keys()
        done.differing = [
            name for name in sorted(names) if not same(results.get(name), expected[ddp].get(name))
        ]
        kills.append(done)
    return kills


def show(kills: list[Kill]) -> None:
    table = Table(title="One process of a training killed with SIGKILL, the run resumed")
    for name in (
        "killed",
        "at step",
        "exit code",
        "others ended after s",
        "left",
        "half-written",
        "epochs lost",
    ):
        table.add_column(name, justify="left" if name == "killed" else "right")
    table.add_column("results that differ", justify="right")
    for kill in kills:
        counts = (len(kill.left), len(kill.half_written), kill.repeated, len(kill.differing))
        table.add_row(kill.victim, str(kill.step), str(kill.code), f"{kill.seconds:.1f}", *map(str, counts))
    console.print(table)
    for kill in kills:
        for what in (*kill.left, *kill.half_written, *kill.differing):
            console.print(f"{kill.victim}: {what}", soft_wrap=True)


def main() -> int:
    given = [int(word) for word in sys.argv[1:]]
    count, seed = (*given, *(10, 0)[len(given) :])
    with tempfile.TemporaryDirectory() as folder:
        kills = kill([VICTIMS[number % len(VICTIMS)] for number in range(count)], seed, Path(folder))
    show(kills)
    return 0 if all(kill.nothing_lost for kill in kills) else 1


if __name__ == "__main__":
    sys.exit(main())
