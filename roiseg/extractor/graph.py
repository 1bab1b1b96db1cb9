"""Cut an ONNX graph at inner tensors, so that nothing after them is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper, shape_inference

from roiseg.common.errors import UserError, closest_matches
from roiseg.common.files import require_file
from roiseg.extractor.external_data import external_tensors, load_small


def load_onnx(path: str | Path) -> ModelProto:
    """Load an ONNX file; large external weights are not loaded.

    Raises:
        UserError: missing or not an ONNX file.
    """
    path = require_file(path, "extractor ONNX", "set extractor.onnx_path")
    try:
        model = onnx.load(str(path), load_external_data=False)
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
