"""Kill a training repeatedly and resume it: `python -m tools.chaos.kills [COUNT [SEED]]`.

A tiny run is killed with SIGKILL at COUNT random moments, up to four times in a row, and started again each
time with the same command plus `ckpt_path=last`. After each kill every file must be complete and every finished
epoch present; at the end everything must equal the uninterrupted run bit for bit. Runs are forked from this
process, which has imported everything once. Exit code 1 if anything was lost.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnxscript  # noqa: F401  imported here once, not in every run
import torch
from rich.table import Table

import roiseg.train  # noqa: F401  as well
from roiseg.common.console import console, progress_bar
from roiseg.inference.checkpoint import read_checkpoint
from tests.helpers import make_onnx, tiny_coco
from tools.chaos.forked import be
from tools.chaos.plans import PHASES, Hooks, Plan
from tools.chaos.whole import half_written

Results = dict[str, object]

EPOCHS = 3
IN_A_ROW = 4
IN_EPOCH = ["callbacks.in_epoch.every_n_steps=1"]


@dataclass
class Report:
    """The results."""

    kills: Counter = field(default_factory=Counter)  # by phase
    started: int = 0  # trainings
    runs: int = 0  # processes
    half_written: list[str] = field(default_factory=list)
    lost_epochs: int = 0
    differing: list[str] = field(default_factory=list)  # differences from the uninterrupted run
    compared: int = 0

    @property
    def nothing_lost(self) -> bool:
        return not (self.half_written or self.lost_epochs or self.differing)

    def compare(self, name: str, expected: Results, found: Results) -> None:
        """Record the differences of a training run from the uninterrupted one."""
        names = expected.keys() | found.keys()
        self.compared += len(names)
        self.differing += [
            f"{name}: {key}" for key in sorted(names) if not same(expected.get(key), found.get(key))
        ]


@dataclass
class Run:
    """One training run in its own folder, through all its kills."""

    folder: Path
    arguments: list[str]
    seconds: float = 0.0  # of processor time, of the last start

    def start(self, plan: Plan | None, seconds: float) -> bool:
        """Run the command until it ends or is killed; return whether it was killed.

        Args:
            plan: when to kill it; None: it must succeed.
            seconds: of processor time that an uninterrupted run takes.
        """
        self.folder.mkdir(exist_ok=True)
        again = ["ckpt_path=last"] if self.notes.exists() else []
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            hooks = Hooks(plan, self.notes)
            be("train", [*self.arguments, *again], self.folder, log, hooks.install)
        if plan is not None and plan.phase == "any moment":
            while _running(process) and _cpu_seconds(process) < plan.share * seconds:
                time.sleep(0.005)
            os.kill(process, signal.SIGKILL)  # no harm if it has ended: it is not waited for yet
        _, status, usage = os.wait4(process, 0)
        self.seconds = usage.ru_utime + usage.ru_stime
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status:
            raise RuntimeError(f"the run failed ({status}):\n{self.log.read_text()[-4000:]}")
        return killed

    @property
    def notes(self) -> Path:
        return self.folder.with_suffix(".notes")

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def noted(self, what: str) -> list[str]:
        lines = self.notes.read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.split(" ")[0] == what]

    def lost_epochs(self) -> int:
        """Return finished epochs that were trained again or lost their checkpoint."""
        finished: set[str] = set()
        repeated = 0
        for line in self.notes.read_text().splitlines():
            what, _, rest = line.partition(" ")
            if what == "finished":
                finished.add(rest)
            if what == "starts" and int(rest) < len(finished):
                repeated += 1
        return repeated + sum(not Path(path).is_file() for path in finished)

    def results(self) -> Results:
        """Return everything that must not depend on kills, by name."""
        (output,) = (path.parent for path in self.folder.glob("out*/summary.json"))
        summary = json.loads((output / "summary.json").read_text())
        kept = ("history", "final", "best", "test", "best_epoch", "epochs", "onnx_check", "data")
        found: Results = {f"summary {key}": summary[key] for key in kept}
        for path in sorted(Path(summary["checkpoint_dir"]).glob("checkpoint*.pth")):
            content = read_checkpoint(path)
            found |= {
                f"{path.name} {key}": content[key]
                for key in ("state_dict", "optimizer_states", "lr_schedulers")
            }
        files = [*output.glob("overlays/*.png"), *output.glob("onnx/*.onnx"), output / "instances.csv"]
        return found | {f"file {path.name}": path.read_bytes() for path in sorted(files)}


def _cpu_seconds(process: int) -> float:
    """Return the processor time of a child, which does not depend on the load of the machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _running(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def same(a: object, b: object) -> bool:
    """Tell whether two values with tensors are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return a == b


def command(data: Path, folder: Path, export: bool) -> list[str]:
    """Return overrides of a run that takes seconds and writes every kind of file."""
    coco = [f"{data}/instances.json", f"{data}/images"]
    keys = ("train_annotations", "train_images", "val_annotations", "val_images")
    return [
        *(f"data.{key}={value}" for key, value in zip(keys, coco * 2, strict=True)),
        "data.source=null", "data.num_workers=0", "data.batch_size=2", "data/cache=disk",
        "data.cache.budget_gb=0.1", f"extractor.onnx_path={data}/tiny.onnx",
        "extractor.layers=[/model.6/Concat_output_0]", "extractor.source=null",
        "extractor.preprocess.image_size=[64,64]", "model.mid_channels=16", "model.min_channels=8",
        "model.depth=1", "trainer=cpu", f"trainer.max_epochs={EPOCHS}", "logger=csv",
        f"paths.root_dir={folder}", f"paths.output_dir={folder}/out", f"paths.checkpoint_dir={folder}/ckpt",
        *([] if export else ["~callbacks.onnx_export"]),
    ]  # fmt: skip


def kill(count: int, seed: int, folder: Path) -> Report:
    """Kill runs below `folder` `count` times and check the results."""
    rng, report = random.Random(seed), Report()
    data = folder / "data"
    data.mkdir()
    tiny_coco(data)
    make_onnx(data / "tiny.onnx")
    phases = [PHASES[number % len(PHASES)] for number in range(count)]
    exports = [phase for phase in phases if phase == "export"]  # takes longest: these kills share runs
    others = [phase for phase in phases if phase != "export"]
    rng.shuffle(others)
    whole = {export: Run(folder / f"whole{export}", []) for export in {bool(exports), False}}
    for export, run in whole.items():
        run.arguments = [*command(data, run.folder, export), *IN_EPOCH]
        run.start(None, 0)
        console.print(f"uninterrupted: {run.seconds:.1f} s of CPU, {dict(Counter(run.noted('count')))}")
    with progress_bar() as bar:
        task = bar.add_task("kills", total=count)
        while todo := others or exports:
            place, example = folder / f"killed{report.started}", whole[todo is exports]
            run = Run(place, [*command(data, place, todo is exports), *IN_EPOCH])
            kill_in_a_row(run, example, todo, rng, report)
            report.lost_epochs += run.lost_epochs()
            report.compare(place.name, example.results(), run.results())
            bar.update(task, completed=report.kills.total())
    return report


def kill_in_a_row(run: Run, example: Run, todo: list[str], rng: random.Random, report: Report) -> None:
    """Kill a run in the first phases of `todo`, remove them from it, and let the run finish."""
    report.started += 1
    most = Counter(example.noted("count"))
    for phase in (*todo[:IN_A_ROW], None):
        plan = None if phase is None else Plan.draw(rng, phase, most)
        killed = run.start(plan, example.seconds)
        report.runs += 1
        report.half_written += map(str, half_written(run.folder))
        if not killed:  # it was the last start, or nothing was left of this phase: the next run's first
            return
        assert phase is not None
        todo.remove(phase)
        report.kills[phase] += 1


def show(report: Report) -> None:
    table = Table(title="A training killed with SIGKILL and resumed")
    table.add_column("")
    table.add_column("", justify="right")
    for phase in PHASES:
        table.add_row(f"kills: {phase}", str(report.kills[phase]))
    totals = {
        "kills": report.kills.total(), "trainings": report.started, "processes": report.runs,
        "results compared": report.compared, "half-written files": len(report.half_written),
        "lost epochs": report.lost_epochs, "results that differ": len(report.differing),
    }  # fmt: skip
    for name, value in totals.items():
        table.add_row(name, str(value))
    console.print(table)
    for line in (*report.half_written, *report.differing):
        console.print(line, soft_wrap=True)


def main() -> int:
    given = [int(word) for word in sys.argv[1:]]
    count, seed = (*given, *(50, 0)[len(given) :])
    sys.argv[1:] = []
    with tempfile.TemporaryDirectory() as folder:
        report = kill(count, seed, Path(folder))
    show(report)
    return 0 if report.nothing_lost else 1


if __name__ == "__main__":
    sys.exit(main())
