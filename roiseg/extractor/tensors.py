"""List a detector's inner tensors: shape, stride and cost."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, shape_inference

from roiseg.common.errors import UserError, closest_matches
from roiseg.extractor.graph import element_type, fix_size_inputs, node_reads, size_values
from roiseg.extractor.session import open_session

Shape = tuple[int, ...]
Known = dict[str, tuple[np.dtype, Shape]]  # type and shape by name
_FLOATS = (np.dtype("float32"), np.dtype("float16"))


@dataclass(frozen=True)
class TensorInfo:
    """One tensor that a node of the graph produces.

    Attributes:
        name: for `extractor.layers`.
        operator: of its node.
        shape: for one image; None if unknown.
        stride: input pixels per cell; None if it cannot be decoded.
        obstacle: why it cannot be decoded; empty if it can.
        cost: share 0..1 of the detector's multiply-accumulates needed to compute it.
    """

    name: str
    operator: str
    shape: Shape | None
    stride: int | None
    obstacle: str
    cost: float


def list_tensors(model: ModelProto, image_size: tuple[int, int], path: str = "") -> list[TensorInfo]:
    """List all tensors of a detector in graph order.

    Shapes come from ONNX shape inference or else from a run on a blank image.

    Args:
        model: the detector.
        image_size: (H, W) of its input.
        path: its file, next to the external weights.
    """
    given, model = model, ModelProto()
    model.CopyFrom(given)
    fix_size_inputs(model, image_size)
    image = image_input(model)
    known = _shapes(model, image, image_size, path)
    costs = _shares(model, known)
    dependent = _depend_on(model, image.name)
    found = []
    for node in model.graph.node:
        for name in filter(None, node.output):
            dtype, shape = known.get(name, (None, None))
            obstacle = (
                _obstacle(dtype, shape, image_size) if name in dependent else "does not depend on the image"
            )
            stride = image_size[0] // shape[2] if shape and not obstacle else None
            found.append(TensorInfo(name, node.op_type, shape, stride, obstacle, costs[name]))
    return found


def select(tensors: Sequence[TensorInfo], pattern: str) -> list[TensorInfo]:
    """Return the tensors whose name or operator contains `pattern`, or matches it if it has `*` or `?`.

    Raises:
        UserError: no tensor matches (lists similar names).
    """
    wanted = (pattern if set(pattern) & set("*?") else f"*{pattern}*").lower()
    found = [t for t in tensors if any(fnmatch.fnmatchcase(w.lower(), wanted) for w in (t.name, t.operator))]
    if not found:
        close = ", ".join(closest_matches(pattern.strip("*?"), [tensor.name for tensor in tensors]))
        hint = f"nearest: {close}" if close else "none is similar"
        raise UserError(f"tensors: none of {len(tensors)} tensors matches `{pattern}` ({hint})")
    return found


def image_input(model: ModelProto) -> ValueInfoProto:
    """Return the only input that is neither a weight nor a size, see `size_values`.

    Raises:
        UserError: there is not exactly one.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        value
        for value in model.graph.input
        if value.name not in stored and not size_values(value.name, (1, 1))
    ]
    if len(inputs) != 1 or element_type(inputs[0]) is None:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UserError(
            f"the detector must have one input tensor, the image; it has {names}: "
            "export it with the image only"
        )
    return inputs[0]


def _shapes(model: ModelProto, image: ValueInfoProto, image_size: tuple[int, int], path: str) -> Known:
    """Return the known types and shapes for one image, including weights and input."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # they may be for another size
    for value in fixed.graph.input:
        if value.name == image.name:
            _fix(value, (1, 3, *image_size))
    inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = {
        t.name: (helper.tensor_dtype_to_np_dtype(t.data_type), tuple(t.dims)) for t in inferred.initializer
    }
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor, dtype = value.type.tensor_type, element_type(value)
        if dtype and tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            known[value.name] = (dtype, tuple(d.dim_value for d in tensor.shape.dim))
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    return known | _run(fixed, known[image.name], image.name, unknown, path)


def _fix(value: ValueInfoProto, shape: Shape) -> None:
    """Set an input's free dimensions."""
    dimensions = value.type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, shape, strict=False):
        if not dimension.HasField("dim_value"):
            dimension.dim_value = size


def _run(
    model: ModelProto, image: tuple[np.dtype, Shape], name: str, wanted: Sequence[str], path: str
) -> Known:
    """Return types and shapes of `wanted` from a run on a blank image; empty if it fails."""
    if not wanted:
        return {}
    have = {output.name for output in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=tensor) for tensor in wanted if tensor not in have)
    try:
        session = open_session(model.SerializeToString(), path, ["CPUExecutionProvider"], 0)
        arrays = session.run(list(wanted), {name: np.zeros(image[1], image[0])})
    except Exception:  # the runtime raises plain exceptions
        return {}
    return {n: (a.dtype, a.shape) for n, a in zip(wanted, arrays, strict=True) if isinstance(a, np.ndarray)}


def _obstacle(dtype: np.dtype | None, shape: Shape | None, image_size: tuple[int, int]) -> str:
    """Return why a tensor cannot be decoded; empty if it can."""
    if shape is None:
        return "shape unknown"
    if dtype not in _FLOATS:
        return f"{dtype}, not float"
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        return "not [1, C, h, w]"
    strides = [size / cells for size, cells in zip(image_size, shape[2:], strict=True)]
    if not strides[0].is_integer() or strides[0] != strides[1]:
        return f"its cells do not divide {image_size[0]}x{image_size[1]} evenly"
    return ""


def _depend_on(model: ModelProto, name: str) -> set[str]:
    """Return the tensor `name` and all that depend on it."""
    found = {name}
    for node in model.graph.node:  # ONNX graphs are sorted
        if found.intersection(node_reads(node)):
            found.update(node.output)
    return found


def _shares(model: ModelProto, known: Known) -> dict[str, float]:
    """Return the share of all multiply-accumulates needed for each tensor."""
    nodes = model.graph.node
    macs = np.array([_macs(node, known) for node in nodes], np.float64)
    needed: dict[str, NDArray[np.bool_]] = {}
    for number, node in enumerate(nodes):
        own = np.zeros(len(nodes), bool)
        own[number] = True
        for name in node_reads(node):
            if name in needed:
                own |= needed[name]
        needed.update(dict.fromkeys(node.output, own))
    total = macs.sum() or 1.0
    return {name: float(macs @ rows / total) for name, rows in needed.items()}


def _macs(node: NodeProto, known: Known) -> int:
    """Return the multiply-accumulates of a convolution or matrix product; 0 for other nodes."""
    shapes = [known[name][1] if name in known else () for name in (*node.input[:2], *node.output[:1])]
    if len(shapes) < 3 or not all(shapes):
        return 0
    left, right, out = shapes
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type in ("MatMul", "Gemm"):
        return math.prod(out) * left[-1]
    return 0
