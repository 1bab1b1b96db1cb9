"""Peak throughput of the machine: large products, large convolutions, large copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.timing import race

_COPIED = 1 << 26  # bytes, more than a CPU's cache


def gemm_flops(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    """Return the FLOP/s of a square matrix product."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)


def conv_flops(
    device: str, dtype: torch.dtype, count: int = 16, channels: int = 256, side: int = 28
) -> float:
    """Return the FLOP/s of a 3x3 convolution, channels last."""
    maps = torch.randn(count, channels, side, side, device=device).to(dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    maps, weight = (t.contiguous(memory_format=torch.channels_last) for t in (maps, weight))
    flops = 2 * count * side * side * channels * channels * 9
    return flops / seconds(lambda: F.conv2d(maps, weight, padding=1), device)


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the faster of the two."""
    return max(gemm_flops(device, dtype), conv_flops(device, dtype))


def bandwidth(device: str) -> float:
    """Return the bytes per second that a memory copy reads and writes."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / seconds(lambda: target.copy_(source), device)


def seconds(way: Callable[[], object], device: str, rounds: int = 5) -> float:
    """Return the fastest of some runs, each synchronized on a GPU."""

    def run() -> None:
        way()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    return min(race({"way": run}, rounds)["way"].seconds)
