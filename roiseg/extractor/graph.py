"""Read ONNX files with their external weights; cut a graph at inner tensors, so that no more is computed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    external_data_helper,
    helper,
    numpy_helper,
    shape_inference,
)

from roiseg.common.errors import UserError, closest_matches
from roiseg.common.files import file_digest, require_file


def load_onnx(path: str | Path) -> ModelProto:
    """Load an ONNX file; large external weights are not loaded.

    Raises:
        UserError: missing or not an ONNX file.
    """
    path = require_file(path, "extractor ONNX", "set extractor.onnx_path")
    try:
        model = onnx.load(str(path), "protobuf", load_external_data=False)  # whatever its suffix
        onnx.checker.check_model(str(path) if external_tensors(model) else model)
        load_small(model, path)
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"extractor file {path} is not a usable ONNX model ({reason}): export or copy it again"
        ) from None
    if not model.graph.node:
        raise UserError(f"extractor file {path} contains no graph: export or copy it again")
    return model


def size_values(name: str, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return what an input beside the image takes so that boxes are in pixels of the (H, W) input.

    RT-DETR and D-FINE scale boxes by `orig_target_sizes` (width, height); PaddleDetection's exports take
    `im_shape` (height, width) and `scale_factor`. None for any other name.
    """
    height, width = image_size
    known = {"orig_target_sizes": (width, height), "im_shape": (height, width), "scale_factor": (1, 1)}
    return known.get(name)


def fix_size_inputs(model: ModelProto, image_size: tuple[int, int]) -> None:
    """Replace the inputs of `size_values` by constants, in place."""
    for value in list(model.graph.input):
        sizes, dtype = size_values(value.name, image_size), element_type(value)
        rank = len(value.type.tensor_type.shape.dim)
        if sizes is not None and dtype is not None and rank in (1, 2):
            constant = np.array(sizes, dtype).reshape((1, 2) if rank == 2 else (2,))
            model.graph.input.remove(value)
            if value.name not in {tensor.name for tensor in model.graph.initializer}:
                model.graph.initializer.append(numpy_helper.from_array(constant, value.name))


def cut_graph(
    model: ModelProto, layers: Sequence[str], name: str = "the extractor", key: str = "extractor.layers"
) -> ModelProto:
    """Return the part of `model` that computes the tensors `layers`, which become its outputs.

    Args:
        model: the detector.
        layers: names of inner tensors or outputs.
        name: the file's name, for messages.
        key: where the configuration names the layers, for messages.

    Raises:
        UserError: no layers, or a tensor does not exist (lists similar names with shapes).
    """
    if not layers:
        raise UserError("extractor.layers is empty: name at least one tensor of the extractor")
    inferred = shape_inference.infer_shapes(model)
    known = tensor_shapes(inferred)
    for layer in layers:
        if layer not in known:
            close = [f"{n} {known[n]}" for n in closest_matches(layer, known, count=5)]
            hint = f"nearest: {', '.join(close)}" if close else f"{len(known)} tensors, none similar"
            raise UserError(f"{key}: {name} has no tensor `{layer}` ({hint})")
    graph = inferred.graph
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    # the runtime knows the type of an output that could not be inferred
    outputs = [values.get(layer, ValueInfoProto(name=layer)) for layer in dict.fromkeys(layers)]
    needed = _needed(graph, layers)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    stored = {tensor.name for tensor in weights}
    part = helper.make_graph(
        [node for node in graph.node if needed.intersection(node.output)],
        f"{graph.name} up to {', '.join(layers)}",
        [value for value in graph.input if value.name in needed - stored],
        outputs,
        weights,
        sparse_initializer=[t for t in graph.sparse_initializer if t.values.name in needed],
    )
    return helper.make_model(
        part, ir_version=model.ir_version, opset_imports=model.opset_import, functions=model.functions
    )


def _needed(graph: GraphProto, layers: Sequence[str]) -> set[str]:
    """Return the names of all tensors that `layers` depend on, including themselves."""
    makers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    queue = list(layers)
    while queue:
        name = queue.pop()
        if name and name not in needed:
            needed.add(name)
            queue += node_reads(makers[name]) if name in makers else []
    return needed


def node_reads(node: NodeProto) -> list[str]:
    """Return the names that a node reads, including those in branches of If and bodies of Loop."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for body in bodies for inner in body.node for name in node_reads(inner))]


def tensor_shapes(inferred: ModelProto) -> dict[str, str]:
    """Return name -> shape as text of every tensor that nodes produce."""
    graph = inferred.graph
    shapes = {output: "[?]" for node in graph.node for output in node.output if output}
    for value in (*graph.value_info, *graph.output):
        if value.name in shapes:
            shapes[value.name] = shape_as_text(value)
    return shapes


def element_type(value: ValueInfoProto) -> np.dtype | None:
    """Return a tensor's element type; None for a sequence or if undeclared."""
    declared = value.type.tensor_type.elem_type
    return helper.tensor_dtype_to_np_dtype(declared) if declared else None


def shape_as_text(value: ValueInfoProto) -> str:
    """Format a tensor's shape: "[1, 64, 52, 52]", "?" where unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return "[?]"
    sizes = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return f"[{', '.join(sizes)}]"


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
    model = onnx.load(str(path), "protobuf", load_external_data=False)
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
