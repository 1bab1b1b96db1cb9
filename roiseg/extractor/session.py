"""Open ONNX Runtime sessions and bind them to torch memory."""

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
    """Bind an input (name, tensor) and preallocated outputs (name -> tensor), all contiguous."""
    binding = session.io_binding()
    inputs = [(*input_, binding.bind_input)]
    for name, tensor, bind_one in inputs + [
        (name, out, binding.bind_output) for name, out in outputs.items()
    ]:
        bind_one(
            name, tensor.device.type, tensor.device.index or 0,
            _NUMPY_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr(),
        )  # fmt: skip
    return binding


def default_providers() -> list[str]:
    """Return CUDA and CPU if torch and the runtime support CUDA, else the CPU."""
    cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]


def open_session(
    model: bytes, path: str, providers: Sequence[str] | None, threads: int
) -> ort.InferenceSession:
    """Open a session on a serialized model with external weights next to the file `path`.

    Raises:
        UserError: unknown provider, or a model that cannot be opened.
    """
    chosen = list(providers) if providers else default_providers()
    available = ort.get_available_providers()
    if unknown := [provider for provider in chosen if provider not in available]:
        known = ", ".join(available)
        raise UserError(f"extractor.providers: {unknown[0]} is not in this onnxruntime (it has {known})")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised as well
    options.intra_op_num_threads = threads
    # spinning threads would take the cores from the decoder
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    folder = str(Path(path).absolute().parent)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return ort.InferenceSession(model, options, providers=[_on_device(name) for name in chosen])
    except Exception as error:  # the runtime raises plain exceptions
        raise UserError(
            f"extractor {path} cannot be opened by onnxruntime: {' '.join(str(error).split())[:300]}"
        ) from None


def _on_device(provider: str) -> str | tuple[str, dict[str, str]]:
    """Put CUDA on torch's current device, which differs between processes of a distributed run."""
    if provider != "CUDAExecutionProvider" or not torch.cuda.is_available():
        return provider
    return provider, {"device_id": str(torch.cuda.current_device())}
