"""Whether this machine computes half precision quickly."""

from __future__ import annotations

import torch

_MIXED = ("bf16-mixed", "bf16", "16-mixed", "16")  # Lightning's names; on a CPU all are bfloat16


def fastest_precision(accelerator: str) -> str:
    """Return `bf16-mixed` if bfloat16 is fast on `trainer.accelerator`, else `32-true`."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed"
    return "32-true" if slow_on_cpu("bf16-mixed") else "bf16-mixed"


def slow_on_cpu(precision: object, key: str = "trainer.precision") -> str:
    """Return why a precision is slow on this CPU, and what to do; empty if it is not.

    PyTorch has fast bfloat16 convolutions on CPUs with AVX-512; on others they are plain loops.

    Args:
        precision: one of Lightning's names.
        key: the option that sets it.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if str(precision) not in _MIXED or capability == "AVX512":
        return ""
    return (
        f"{key}={precision} is several times slower than 32-true on this CPU, "
        f"which computes bfloat16 without AVX-512 ({capability}): set {key}=32-true"
    )
