"""What this machine computes with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from roiseg.cli.diagnosis.finding import Finding
from roiseg.common.memory import memory_limit

_SHARED = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
_SHARED_LEAST = 512e6  # bytes; containers often have 64 MB, and a loader's batches pass through it


def devices(num_workers: int, accelerator: str) -> list[Finding]:
    """Processor cores, memory, GPUs, and the shared memory loader processes need.

    Args:
        num_workers: loader processes of the configuration.
        accelerator: `trainer.accelerator` of the configuration.
    """
    return [*_processor(num_workers), *_gpus(accelerator), *_shared_memory(num_workers)]


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor(num_workers: int) -> Iterator[Finding]:
    text = f"{cores()} cores, {torch.get_num_threads()} threads of torch"
    if hasattr(os, "sysconf"):
        text += f", {memory_limit() / 1e9:.1f} GB memory"
    yield Finding("processor", "ok", text)
    if num_workers > cores():
        text = f"data.num_workers is {num_workers}, more than there are cores"
        yield Finding("processor", "warning", text, f"data.num_workers={cores()}")


def _gpus(accelerator: str) -> Iterator[Finding]:
    if not torch.cuda.is_available():
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        )
        todo = "on a machine with a GPU: check nvidia-smi and the driver"
        if not torch.version.cuda:
            todo = "on a machine with a GPU: install a CUDA build of torch"
        state = "error" if accelerator in ("gpu", "cuda") else "note"
        wanted = f", trainer.accelerator={accelerator}" if state == "error" else ""
        yield Finding("GPU", state, f"torch sees none ({built}){wanted}", todo)  # type: ignore[arg-type]
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        text = f"{name}: {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        if free < 0.2 * total:
            yield Finding(
                f"GPU {number}", "warning", text, "another program holds its memory: see nvidia-smi"
            )
        else:
            yield Finding(f"GPU {number}", "ok", text)
    if accelerator == "cpu":
        yield Finding("GPU", "note", "trainer.accelerator=cpu leaves it idle", "trainer.accelerator=auto")


def _shared_memory(num_workers: int) -> Iterator[Finding]:
    if not _SHARED.is_dir():
        return
    free = shutil.disk_usage(_SHARED).free
    text = f"{free / 1e9:.2f} GB free in {_SHARED}"
    if free < _SHARED_LEAST and num_workers:
        todo = "in a container: docker run --shm-size=4g; or data.num_workers=0"
        yield Finding("shared memory", "warning", f"{text}, loader processes pass batches through it", todo)
    else:
        yield Finding("shared memory", "ok", text)
