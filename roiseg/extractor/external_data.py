"""External weights of an ONNX file, and a digest that covers them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, TensorProto, external_data_helper, helper

from roiseg.common.errors import UserError
from roiseg.common.files import file_digest, require_file

MAX_BYTES = 2**31 - 1  # of a serialized model
_SMALL = 1024  # bytes; shape inference reads constants such as the shapes of a Reshape


def external_tensors(model: ModelProto) -> list[TensorProto]:
    """Return the tensors whose values are in another file."""
    return [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]


def load_small(model: ModelProto, path: Path) -> None:
    """Load the values of small external tensors."""
    for tensor in external_tensors(model):
        if _size(tensor) <= _SMALL:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def full_size(model: ModelProto) -> int:
    """Return the bytes of a model including its external tensors."""
    return model.ByteSize() + sum(map(_size, external_tensors(model)))


def model_digest(path: str | Path) -> str:
    """Return the SHA-256 of a model: its file and the files of its external tensors.

    Raises:
        UserError: one of these files lies outside the model's folder, or is not a regular file.
    """
    model = onnx.load(str(path), load_external_data=False)
    files = sorted({_location(tensor) for tensor in external_tensors(model)})
    folder = Path(path).absolute().parent
    for name in files:
        if Path(name).is_absolute() or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"ONNX file {path}: its weights file {name} lies outside its folder: move it there"
            )
    own = file_digest(path)
    if not files:
        return own
    parts = [own, *(f"{name} {file_digest(require_file(folder / name, 'weights'))}" for name in files)]
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()


def _location(tensor: TensorProto) -> str:
    return next(entry.value for entry in tensor.external_data if entry.key == "location")


def _size(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all stored tensors, including those of subgraphs and local functions."""
    graphs: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        sparse = [attribute.sparse_tensor for attribute in attributes if attribute.HasField("sparse_tensor")]
        if isinstance(graph, GraphProto):
            yield from graph.initializer
            sparse += graph.sparse_initializer
        else:
            attributes += graph.attribute_proto
        for attribute in attributes:
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs]
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)
