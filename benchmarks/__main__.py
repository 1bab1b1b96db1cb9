"""`python -m benchmarks [NAME ...]`: run all measurements (or those named), one after another."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import machine
from roiseg.common.console import console

# in the order of benchmarks/README.md; each is a module with a `main`, run in its own process
ALL = (
    "epoch", "usual_loop", "cache", "cache_scale", "compact", "targets", "roi_align", "decoder_step", "paste",
    "scale", "ddp", "coco_cost", "gpu", "export",
)  # fmt: skip


def run(names: list[str]) -> int:
    """Run measurements by name; returns how many failed."""
    console.print(machine(), highlight=False)
    failed = 0
    for name in names:
        started = time.perf_counter()
        console.rule(f"benchmarks/{name}.py")
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
        console.print(f"{time.perf_counter() - started:.0f} s", highlight=False)
    return failed


def main() -> None:
    """Parse the command line."""
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if not (Path(__file__).parent / f"{name}.py").is_file()]
    if unknown:
        sys.exit(f"no measurement {unknown[0]}: choose from {', '.join(ALL)}")
    sys.exit(min(1, run(names)))


if __name__ == "__main__":
    main()
