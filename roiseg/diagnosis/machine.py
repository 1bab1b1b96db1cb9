"""Check packages, runtime and hardware of this machine."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import onnxruntime as ort
import torch
from packaging.requirements import Requirement

import roiseg
from roiseg.common.limits import memory_limit
from roiseg.common.precision import slow_on_cpu
from roiseg.diagnosis.finding import Finding
from roiseg.extractor.session import default_providers

_SHOWN = ("torch", "lightning", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "hydra-core")


def packages() -> list[Finding]:
    """Report versions, packages that are missing or do not fit, and installed extras."""
    try:
        wanted = [Requirement(line) for line in metadata.requires("roiseg") or []]
    except metadata.PackageNotFoundError:
        todo = "pip install -e . in the checkout"
        return [Finding("packages", "warning", "roiseg is not installed, its versions are not checked", todo)]
    shown = [f"{name} {version}" for name in _SHOWN if (version := installed(name))]
    versions = [f"roiseg {roiseg.__version__}", f"python {platform.python_version()}", *shown]
    return [Finding("versions", "ok", ", ".join(versions)), *_required(wanted), *_extras(wanted)]


def installed(name: str) -> str | None:
    """Return the version of a distribution; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required(wanted: list[Requirement]) -> Iterator[Finding]:
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed(requirement.name)
        if version is None and requirement.name in _RUNTIMES:
            version = next(filter(None, map(installed, _RUNTIMES)), None)
        if version is None:
            yield Finding("packages", "error", f"{requirement.name} is not installed", _install(requirement))
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version} is installed, roiseg needs {requirement.specifier}"
            yield Finding("packages", "warning", text, _install(requirement))


def _install(requirement: Requirement) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")  # two builds of one


def _extras(wanted: list[Requirement]) -> Iterator[Finding]:
    """Report in one line which extras are complete."""
    extras: dict[str, list[Requirement]] = {}
    for name in metadata.metadata("roiseg").get_all("Provides-Extra") or []:
        members = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": name})]
        extras[name] = [r for r in members if not r.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
    whole = [name for name, members in extras.items() if all(installed(r.name) for r in members)]
    absent = [name for name in extras if name not in (*whole, "dev")]  # dev: for a checkout
    if whole:
        yield Finding("extras", "ok", f"installed: {', '.join(whole)}")
    if absent:
        todo = f"to install one: pip install 'roiseg[{absent[0]}]'"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", todo)


_CUDA = "CUDAExecutionProvider"


def runtime(wanted: Sequence[str] | None, opened: Sequence[str] | None = None) -> Iterator[Finding]:
    """Report execution providers: built in, chosen, in use.

    Args:
        wanted: `extractor.providers`; None leaves the choice to roiseg.
        opened: the providers of the session that was opened; None where none was.
    """
    available, chosen = ort.get_available_providers(), list(wanted or default_providers())
    yield Finding("ONNX Runtime", "ok", f"built with {', '.join(available)}; asked for: {', '.join(chosen)}")
    if installed("onnxruntime") and installed("onnxruntime-gpu"):
        text = "onnxruntime and onnxruntime-gpu are both installed and overwrite one another"
        todo = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        yield Finding("ONNX Runtime", "warning", text, todo)
    if torch.cuda.is_available() and _CUDA not in available:
        text = "torch sees a GPU, ONNX Runtime has no CUDA: the detector runs on the CPU"
        todo = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
        yield Finding("ONNX Runtime", "warning", text, todo)
    if opened is not None and (lost := [name for name in chosen if name not in opened]):
        text = f"{', '.join(lost)} did not start, in use: {', '.join(opened)}"
        todo = (
            f"ONNX Runtime was built for CUDA {getattr(ort, 'cuda_version', '?')}, "
            f"torch for {torch.version.cuda or 'none'}: the major versions must match"
        )
        yield Finding("ONNX Runtime", "warning", text, todo)


_SHARED = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
_SHARED_LEAST = 512e6  # bytes; containers often have 64 MB, and a loader's batches pass through it


def devices(num_workers: int, accelerator: str, precision: object) -> list[Finding]:
    """Report processor cores, memory, GPUs, and the shared memory that loader processes need.

    Args:
        num_workers: loader processes of the configuration.
        accelerator, precision: `trainer.accelerator` and `trainer.precision` of the configuration.
    """
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    slow = slow_on_cpu(precision) if on_cpu else ""
    return [
        *_processor(num_workers),
        *([Finding("precision", "warning", slow)] if slow else []),
        *_gpus(accelerator),
        *_shared_memory(num_workers),
    ]


def cores() -> int:
    """Return the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor(num_workers: int) -> Iterator[Finding]:
    text = f"{cores()} cores, {torch.get_num_threads()} of them used by torch"
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
