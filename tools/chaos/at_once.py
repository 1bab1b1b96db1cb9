"""Start commands simultaneously, forked from this process, which has imported everything."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tools.chaos.forked import LONGEST, be


@dataclass
class Job:
    """`python -m roiseg.COMMAND ARGUMENTS...` in a folder, which is created.

    Attributes:
        kill_after: seconds of processor time after which it is killed with SIGKILL; None: never.
        code: its exit code, or minus the signal number.
        seconds: of processor time that it took.
    """

    command: str
    arguments: Sequence[str]
    folder: Path
    kill_after: float | None = None
    code: int | None = None
    seconds: float = 0.0
    process: int = field(default=0, repr=False)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.log")

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def in_one_line(self) -> str:
        """Return its message if it ended as after a user error, else an empty string."""
        lines = [line for line in self.output.splitlines() if line.startswith("roiseg: error: ")]
        clear = self.code == 2 and len(lines) == 1 and "Traceback" not in self.output
        return lines[0] if clear else ""


def run_at_once(jobs: Sequence[Job], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Start all jobs simultaneously and wait for them; kill those with `kill_after`.

    Args:
        jobs: their results are set.
        meanwhile: called repeatedly until all have ended.

    Raises:
        TimeoutError: some hang; they are killed.
    """
    waiting, gate = os.pipe()
    sys.stdout.flush()
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        job.process = os.fork()
        if job.process == 0:
            os.close(gate)
            _be(job, waiting)
    os.close(waiting)
    os.close(gate)  # now
    deadline = time.monotonic() + LONGEST
    while running := [job for job in jobs if job.code is None and not _ended(job)]:
        meanwhile()
        for job in running:
            if job.kill_after is not None and _cpu_seconds(job.process) >= job.kill_after:
                os.kill(
                    job.process, signal.SIGKILL
                )  # not waited for yet: the number still belongs to this job
        if time.monotonic() > deadline:
            for job in running:
                os.kill(job.process, signal.SIGKILL)
                _, _, _ = os.wait4(job.process, 0)
            raise TimeoutError("\n".join(f"hangs: {job}\n{job.output[-2000:]}" for job in running))
        time.sleep(0.005)


def _ended(job: Job) -> bool:
    process, status, usage = os.wait4(job.process, os.WNOHANG)
    if process:
        job.code = os.waitstatus_to_exitcode(status)
        job.seconds = usage.ru_utime + usage.ru_stime
    return bool(process)


def _cpu_seconds(process: int) -> float:
    """Return the processor time of a child, which does not depend on the load of the machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _be(job: Job, gate: int) -> NoReturn:
    """Run the job in the forked process, once the gate is open."""

    def wait() -> None:
        importlib.import_module(f"roiseg.{job.command}")
        os.read(gate, 1)  # until it is closed

    log = os.open(job.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    be(job.command, job.arguments, job.folder, log, wait)
