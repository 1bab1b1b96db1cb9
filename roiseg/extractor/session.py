"""Opening ONNX Runtime sessions, and running them on torch's memory where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor

from roiseg.common.errors import UserError

TORCH_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_NUMPY_TYPES = {torch.float32: "float32", torch.float16: "float16"}


def bind(
    session: ort.InferenceSession, input_: tuple[str, Tensor], outputs: dict[str, Tensor]
) -> ort.IOBinding:
    """Bind an input (name, tensor) and preallocated outputs (name -> tensor) of a session, all contiguous."""
    binding = session.io_binding()
    given = [(*input_, binding.bind_input)]
    for name, tensor, bind_one in given + [(name, out, binding.bind_output) for name, out in outputs.items()]:
        bind_one(
            name, tensor.device.type, tensor.device.index or 0,
            _NUMPY_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr(),
        )  # fmt: skip
    return binding


def default_providers() -> list[str]:
    """CUDA before CPU where torch sees a GPU and the runtime was built for it, else the CPU alone."""
    cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]


def open_session(
    model: bytes, path: str, providers: Sequence[str] | None, threads: int
) -> ort.InferenceSession:
    """Open a session on a serialised model, external weights of which lie beside the file `path`.

    Raises:
        UserError: a provider this runtime does not have, or a model it cannot open.
    """
    chosen = list(providers) if providers else default_providers()
    available = ort.get_available_providers()
    if unknown := [provider for provider in chosen if provider not in available]:
        known = ", ".join(available)
        raise UserError(f"extractor.providers: {unknown[0]} is not in this onnxruntime (it has {known})")
    if threads < 0:
        raise UserError(f"extractor.threads must be 0 (the runtime chooses) or more, got {threads}")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = threads
    # threads that spin between runs take the cores from the decoder, whose turn it is then
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    folder = str(Path(path).absolute().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return ort.InferenceSession(model, options, providers=[_on_device(name) for name in chosen])
    except Exception as error:  # the runtime raises bare exceptions of its own
        raise UserError(
            f"extractor {path} cannot be opened by onnxruntime: {' '.join(str(error).split())[:300]}"
        ) from None


def _on_device(provider: str) -> str | tuple[str, dict[str, str]]:
    """The provider, CUDA's on torch's current device: each process of a distributed run has its own."""
    if provider != "CUDAExecutionProvider" or not torch.cuda.is_available():
        return provider
    return provider, {"device_id": str(torch.cuda.current_device())}
