"""Moments to kill a training: at random, at a step, or while a file is written."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

PHASES = (
    "checkpoint", "training", "validation", "cache", "any moment", "overlay", "record", "test", "export",
    "in epoch",
)  # fmt: skip
WRITES = {".pth": "checkpoint", ".png": "overlay", ".onnx": "export"}  # all else outside the cache: record


@dataclass(frozen=True)
class Plan:
    """One kill.

    Attributes:
        phase: one of PHASES.
        count: at the how manyeth step or file of that phase, 1 the first.
        share: of "any moment", which share of an uninterrupted run's time passes before; while a file is
            written: how much of it is there. At 1 it is complete, but not in its place yet.
        placed: the file is in its place already.
    """

    phase: str
    count: int
    share: float
    placed: bool

    @classmethod
    def draw(cls, rng: random.Random, phase: str, most: dict[str, int]) -> Plan:
        """Return a random plan; `most`: number of steps or files per phase in an uninterrupted run."""
        share = rng.choice([0.0, rng.random(), 1.0]) if phase != "any moment" else rng.random()
        return cls(phase, rng.randint(1, max(1, most.get(phase, 1))), share, rng.random() < 0.25)


def _phase(target: Path) -> str:
    """Return the phase in which a file is written."""
    if "feature_cache" in target.parts:
        return "cache"
    if target.name.startswith("checkpoint_in_epoch"):
        return "in epoch"
    return WRITES.get(target.suffix, "record")


class Hooks:
    """Put into a process that trains: counts steps and files, notes finished epochs, kills by plan.

    Args:
        plan: None: nothing is killed.
        notes: file that `count PHASE`, `finished FILE` and `starts EPOCH` are appended to as they happen.
    """

    def __init__(self, plan: Plan | None, notes: Path) -> None:
        self.plan = plan
        self.counts: dict[str, int] = {}
        self.notes = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def install(self) -> None:
        """Start now."""
        from roiseg.training.module import RoiSegModule

        for name, phase in (
            ("training_step", "training"), ("validation_step", "validation"), ("test_step", "test"),
        ):  # fmt: skip
            setattr(RoiSegModule, name, self._step(getattr(RoiSegModule, name), phase))
        start = RoiSegModule.on_train_epoch_start

        def on_train_epoch_start(module):
            self._note(f"starts {module.current_epoch}")
            start(module)

        RoiSegModule.on_train_epoch_start = on_train_epoch_start
        replace = os.replace
        os.replace = lambda source, target: self._write(replace, Path(source), Path(target))

    def _note(self, line: str) -> None:
        os.write(self.notes, f"{line}\n".encode())

    def _now(self, phase: str) -> bool:
        self.counts[phase] = self.counts.get(phase, 0) + 1
        self._note(f"count {phase}")
        return self.plan is not None and self.plan.phase == phase and self.plan.count == self.counts[phase]

    def _step(self, function, phase):
        def step(module, *given):
            if self._now(phase):
                self._kill()
            return function(module, *given)

        return step

    def _write(self, replace, source: Path, target: Path) -> None:
        phase = _phase(target)
        now = self._now(phase)
        if now and not self.plan.placed:
            os.truncate(source, int(self.plan.share * source.stat().st_size))
            self._kill()
        replace(source, target)
        if phase == "checkpoint":
            self._note(f"finished {target}")
        if now:
            self._kill()

    def _kill(self) -> None:
        self._note("killed")
        os.kill(os.getpid(), signal.SIGKILL)
