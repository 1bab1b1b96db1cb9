"""Resources of a process over time: memory, file handles, threads, children, outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.memory import Memory

BLOCKS = 10  # parts of the second half: neighbouring samples correlate, their means less so
_STUDENT = 2.306  # of 95 %, BLOCKS - 2 degrees of freedom
GROWTH = 2.5  # MB over the second half that count as growth: allocators settle late, too


@dataclass(frozen=True)
class Level:
    """The resources in use at one moment.

    Attributes:
        step: work done so far.
        seconds: processor time of this process and its children, independent of other programs.
        resident, own: MB of this process and its children, see `Memory`.
        handles: open files and sockets of this process.
        workers_handles: of its children.
        threads: of this process and its children.
        children: child processes, including zombies.
        files, size: number and bytes of the files in each output folder.
    """

    step: int
    seconds: float
    resident: float
    own: float
    handles: int
    workers_handles: int
    threads: int
    children: int
    files: dict[str, int]
    size: dict[str, int]

    @classmethod
    def now(cls, step: int, folders: dict[str, Path] | None = None) -> Level:
        """Measure this process, its children, and some folders."""
        children = descendants(os.getpid())
        processes = [os.getpid(), *children]
        memory = [Memory.of(process) for process in processes]
        found = {
            name: [path.stat().st_size for path in folder.rglob("[!.]*") if path.is_file()]
            for name, folder in (folders or {}).items()
        }
        return cls(
            step, sum(map(_cpu_seconds, processes)), sum(m.resident for m in memory), sum(m.own for m in memory),
            _count(os.getpid(), "fd"), sum(_count(child, "fd") for child in children),
            sum(_count(process, "task") for process in processes), len(children),
            {name: len(sizes) for name, sizes in found.items()},
            {name: sum(sizes) for name, sizes in found.items()},
        )  # fmt: skip


def descendants(process: int) -> list[int]:
    """Return the children of a process, and theirs."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(number) for task in tasks for number in task.read_text().split()]
    return [*children, *(number for child in children for number in descendants(child))]


def _count(process: int, what: str) -> int:
    return len(os.listdir(f"/proc/{process}/{what}"))


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch(L.Callback):
    """Appends a `Level` to a file at the beginning of every n-th epoch.

    Args:
        path: the file, one json object per line.
        folders: name -> folder of outputs.
        every_n_epochs: n.
    """

    def __init__(self, path: str, folders: dict[str, str], every_n_epochs: int) -> None:
        self.path = path
        self.folders = {name: Path(folder) for name, folder in folders.items()}
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch % self.every_n_epochs:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        with open(self.path, "a") as stream:
            stream.write(json.dumps(asdict(Level.now(trainer.global_step, self.folders))) + "\n")


def read_levels(path: Path) -> list[Level]:
    """Return what `Watch` has written."""
    return [Level(**json.loads(line)) for line in path.read_text().splitlines()]


def slope(levels: Sequence[Level], value: Callable[[Level], float]) -> tuple[float, float]:
    """Return the growth of a value per 1,000 steps over the second half, and half its 95 % interval.

    A line is fitted to the means of BLOCKS parts by least squares.
    """
    half = levels[len(levels) // 2 :]
    parts = [part for part in np.array_split(np.arange(len(half)), BLOCKS) if len(part)]
    x = np.array([np.mean([half[i].step for i in part]) for part in parts]) / 1000
    y = np.array([np.mean([value(half[i]) for i in part]) for part in parts])
    if len(parts) < BLOCKS:
        return float("nan"), float("inf")
    centred = x - x.mean()
    rise = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - rise * centred
    error = float(np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred)))
    return rise, _STUDENT * error


def is_flat(levels: Sequence[Level], value: Callable[[Level], float]) -> bool:
    """Tell whether a fluctuating count is no higher at the end than at the start.

    It grows if every value of the last third is above every one of the first third; the first sample does
    not count.
    """
    third = max(1, len(levels) // 3)
    return min(map(value, levels[-third:])) <= max(map(value, levels[1 : 1 + third]))
