"""Which tensor of the file holds the boxes, and the graph cut to compute it along with the features."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto, shape_inference

from roiseg.common.errors import UserError
from roiseg.extractor.graph import cut_graph, element_type, load_onnx
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.extractor.postprocess.multi_tensor import BOXES, HEAD, find_parts, join, misfit, shape_text


def cut_with_head(
    path: str, layers: Sequence[str], postprocess: Postprocessor, image_size: tuple[int, int]
) -> tuple[ModelProto, str]:
    """The part of a file that computes `layers` and the tensor with the boxes, and that tensor's name.

    Raises:
        UserError: no such tensor, or no output that fits.
    """
    model = load_onnx(path)
    if postprocess.outputs:  # a wrong name is told as such
        cut_graph(model, postprocess.outputs, path, "extractor.postprocess.output")
    head = _join(model, postprocess, path) if postprocess.parts else None
    head = head or next(iter(postprocess.outputs), None) or find_output(model, postprocess, image_size, path)
    return cut_graph(model, [*layers, head], path), head


def _join(model: ModelProto, postprocess: Postprocessor, path: str) -> str:
    """Join the tensors that a detector's head consists of, in `model`; returns the new tensor's name.

    Raises:
        UserError: they are not there, or have other shapes.
    """
    graph = shape_inference.infer_shapes(model).graph
    outputs = [value.name for value in graph.output]
    shapes = {
        value.name: declared_shape(value) or [] for value in (*graph.value_info, *graph.output)
        if element_type(value)
    }  # fmt: skip
    names = postprocess.outputs or find_parts(
        {name: shapes[name] for name in outputs if name in shapes}, postprocess.parts, path
    )
    chosen = [shapes.get(name, []) for name in names]
    if wrong := misfit(chosen, postprocess.parts):
        told = ", ".join(f"{name} {shape_text(shape)}" for name, shape in zip(names, chosen, strict=True))
        raise UserError(
            f"extractor.postprocess.output: of {told} in {path} the one with {wrong} does not fit the others"
        )
    join(model, names, postprocess.parts, batched=len(chosen[postprocess.parts.index(BOXES)]) == 3)
    return HEAD


def find_output(model: ModelProto, postprocess: Postprocessor, image_size: tuple[int, int], path: str) -> str:
    """The first output of the file whose declared shape an adapter reads.

    Raises:
        UserError: there is none; all outputs are listed.
    """
    outputs = [value for value in model.graph.output if element_type(value)]
    reasons = []
    for value in outputs:
        shape = declared_shape(value)
        reason = "" if shape is None else postprocess.mismatch(shape, image_size)
        if not reason:
            return value.name
        reasons.append(reason)
    listed = ", ".join(f"{v.name} {shape_text(declared_shape(v) or [])}" for v in outputs) or "it has none"
    first = reasons[0] if reasons else "set extractor.postprocess.output"
    raise UserError(f"extractor.postprocess: no output of {path} fits ({listed}): {first}")


def declared_shape(value: ValueInfoProto) -> list[int | None] | None:
    """The shape a file declares for a tensor, None where a side is not fixed; None if it declares none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim]
