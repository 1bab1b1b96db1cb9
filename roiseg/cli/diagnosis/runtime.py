"""Do ONNX Runtime and torch agree on the device?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnxruntime as ort
import torch

from roiseg.cli.diagnosis.finding import Finding
from roiseg.cli.diagnosis.packages import installed
from roiseg.extractor.session import default_providers

_CUDA = "CUDAExecutionProvider"


def runtime(wanted: Sequence[str] | None, opened: Sequence[str] | None = None) -> Iterator[Finding]:
    """Execution providers: built in, chosen, and really in use.

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
            f"ONNX Runtime's build wants CUDA {getattr(ort, 'cuda_version', '?')}, "
            f"torch brings {torch.version.cuda or 'none'}: the first number must be the same"
        )
        yield Finding("ONNX Runtime", "warning", text, todo)
