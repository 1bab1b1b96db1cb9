"""Two processes compared with one at the same global batch on this CPU: time per epoch and metrics.

Whole commands on the real set; every process has one thread and its own core, as it would have its own
GPU; the floor of the ratio is 0.5.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from lightning.fabric.plugins.environments.lightning import find_free_network_port

from benchmarks import real
from benchmarks.report import show
from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.inference.checkpoint import read_checkpoint

EPOCHS = 5
WAYS = {
    1: ["trainer=cpu", "data.batch_size=8"],
    2: ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4"],
}
# plain cross-entropy: a mean over pixels, of which each process has equally many but for crowds
COMMON = [
    "experiment=coco128_yolox", "data/augment=light", "data.num_workers=0", "loss=ce", "extractor.threads=1",
    f"trainer.max_epochs={EPOCHS}", "callbacks=minimal", "logger=[]", "test=false",
]  # fmt: skip


def train(folder: Path, overrides: list[str], processes: int) -> None:
    """Run the training command in a number of processes; all output goes to `folder`.

    Raises:
        UserError: there are fewer cores, or training failed.
    """
    cores = sorted(os.sched_getaffinity(0))[:processes]
    if len(cores) < processes:
        raise UserError(f"{processes} processes need as many cores, this machine has {len(cores)}")
    command = [sys.executable, "-m", "roiseg.train", *overrides]
    command += [f"paths.output_dir={folder}/out", f"paths.checkpoint_dir={folder}/ckpt"]
    port = str(find_free_network_port())
    started = []
    for rank, core in enumerate(cores):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        pin = functools.partial(os.sched_setaffinity, 0, {core})
        process = subprocess.Popen(
            command, env=environment, preexec_fn=pin, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
    ends = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        raise UserError(f"training failed: {ends[0][-1000:]}")


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, one per epoch, in order."""
    return sorted((folder / "ckpt").glob("*.pth"))


def epoch_seconds(folder: Path) -> list[float]:
    """Return the seconds between checkpoints: epochs with validation, without the first."""
    times = [path.stat().st_mtime for path in checkpoints(folder)]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def history(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of every epoch."""
    return read_json(folder / "out" / "summary.json", "summary")["history"]


def furthest(first: list[dict[str, float]], second: list[dict[str, float]], prefix: str) -> float:
    """Return the largest difference between two runs' metrics whose names start with `prefix`."""
    return max(
        abs(a[name] - b[name])
        for a, b in zip(first, second, strict=True)
        for name in a
        if name.startswith(prefix)
    )


def furthest_weight(first: Path, second: Path) -> float:
    """Return the largest difference between the weights of two checkpoints."""
    a, b = (read_checkpoint(path)["state_dict"] for path in (first, second))
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].numel())


def main() -> None:
    """Train both ways and print the table."""
    real.folder()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {processes: Path(scratch) / str(processes) for processes in WAYS}
        for processes, overrides in track(WAYS.items(), "runs", total=len(WAYS)):
            train(folders[processes], [*COMMON, *overrides], processes)
        one, two = folders.values()
        base = statistics.median(epoch_seconds(one))
        rows = []
        for processes, folder in folders.items():
            seconds = epoch_seconds(folder)
            middle = statistics.median(seconds)
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            rows.append((processes, f"{middle:.2f}", spread, f"{middle / base:.2f}"))
        losses = furthest(history(one), history(two), "train/loss")
        metrics = furthest(history(one), history(two), "val/miou")
        weights = furthest_weight(checkpoints(one)[-1], checkpoints(two)[-1])
    note = (
        f"after {EPOCHS} epochs the runs differ by {losses:.1e} in the training loss, {metrics:.1e} in mIoU "
        f"and {weights:.1e} in the weights"
    )
    show(
        "an epoch of 46 images, 8 a step, and validation", ["processes", "s", "from to", "ratio"], rows, note
    )


if __name__ == "__main__":
    main()
