"""Concurrent commands that start processes: sweeps, DDP, the page."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT, run_command
from tools.chaos.at_once import LONGEST
from tools.chaos.kills import command
from tools.chaos.one_place import tiny_data
from tools.chaos.sharing import PROCESSES, Found

DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1"]


def sweep(folder: Path) -> Found:
    """Run eight jobs in parallel, one with an invalid value: seven runs, and a report of them."""
    data, found = tiny_data(folder), Found(PROCESSES)
    own = ("paths.", "data.batch_size")
    kept = [argument for argument in command(data, folder, export=False) if not argument.startswith(own)]
    done = run_command(
        ["roiseg.train", "-m", "sweep=joblib", f"hydra.launcher.n_jobs={PROCESSES}", *kept,
         "trainer.max_epochs=1", "data.batch_size=1,2,3,0,4,5,6,7"], cwd=folder, timeout=LONGEST,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    found.check(done.returncode == 2, f"exit code {done.returncode}")
    clear = lines[-1:] == [line for line in lines if line.startswith("roiseg: error: data.batch_size ")]
    found.check(clear and "Traceback" not in done.stderr, f"said {done.stderr[-2000:]}")
    found.notes.append(f"exit code {done.returncode}: {lines[-1] if lines else ''}")
    summaries = [json.loads(path.read_text()) for path in folder.glob("outputs/sweeps/*/*/summary.json")]
    have = {o for s in summaries for o in s["overrides"] if o.startswith("data.batch_size")}
    found.check(have == {f"data.batch_size={n}" for n in range(1, 8)}, f"summaries of {have}")
    found.check(len(summaries) == len({s["checkpoint_dir"] for s in summaries}) == 7, "shared folders")
    place = next(folder.glob("outputs/sweeps/*"), folder)
    report = run_command(["roiseg.report", str(place), "resamples=100"], cwd=folder)
    found.check(report.returncode == 0, f"report: {report.stderr[-2000:]}")
    if report.returncode == 0:
        variants = json.loads((place / "report/report.json").read_text())["variants"]
        read = {path for variant in variants for path in variant["run_folders"]}
        found.check(len(read) == 7, f"reported: {read}")
    found.look_through(folder)
    return found


def groups(folder: Path) -> Found:
    """Run three DDP groups of two processes at the same time: each connects on its own port."""
    data, found = tiny_data(folder), Found(6)
    started = [
        start(["roiseg.train", *command(data, folder / f"group{n}", export=False), *DDP], folder)
        for n in range(3)
    ]
    for process in started:
        output, errors = process.communicate(timeout=LONGEST)
        found.check(
            process.returncode == 0, f"ended with {process.returncode}:\n{output[-2000:]}{errors[-2000:]}"
        )
    histories = [json.loads(path.read_text())["history"] for path in folder.glob("group*/out/summary.json")]
    found.compared += len(histories)
    found.check(len(histories) == 3, f"{len(histories)} summaries")
    found.check(all(history == histories[0] for history in histories), "histories differ")
    found.look_through(folder)
    return found


def pages(folder: Path) -> Found:
    """Start two pages on one port: the second exits with code 2 and a message, the first keeps running."""
    data, found = tiny_data(folder), Found(2)
    done = run_command(
        ["roiseg.train", *command(data, folder / "run", export=False), "trainer.max_epochs=1"], cwd=folder
    )
    found.check(done.returncode == 0, done.stderr)
    (ckpt,) = (folder / "run/ckpt").glob("*.pth")
    first = start(["roiseg.app", f"ckpt={ckpt}", "port=0"], folder)
    try:
        port = int(re.search(r":(\d+)/", first.stdout.readline())[1])
        second = run_command(["roiseg.app", f"ckpt={ckpt}", f"port={port}"], cwd=folder)
        lines = second.stderr.strip().splitlines()
        found.check(second.returncode == 2, f"exit code {second.returncode}")
        found.check(len(lines) == 1 and f"port={port}" in lines[0], f"said {second.stderr}")
        found.notes.append(lines[-1] if lines else "")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
            line.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            found.check(line.recv(100).startswith(b"HTTP/1.1 200"), "the first page does not answer")
    finally:
        first.kill()
        first.communicate()
    return found


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start `python -m ARGUMENTS...` in its own process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
