"""Locate the tensor that holds the detector's boxes and cut the graph to compute it with the features.

Heads of several tensors (boxes, scores, ...) are joined to one tensor of rows in the graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from roiseg.common.errors import UserError
from roiseg.extractor.graph import cut_graph, element_type, fix_size_inputs, load_onnx

if TYPE_CHECKING:
    from roiseg.extractor.postprocess.base import Postprocessor

HEAD = "roiseg/detector_head"

Shape = Sequence[int | None]  # None: not fixed


@dataclass(frozen=True)
class Part:
    """One tensor of a head.

    Args:
        holds: its content.
        words: one of them occurs in the tensor's name; used where shapes leave a choice.
        columns: values per row; None: one per class; 0: the tensor is the number of valid rows.
    """

    holds: str
    words: tuple[str, ...]
    columns: int | None


BOXES = Part("boxes", ("box",), 4)
SCORES = Part("scores", ("score", "conf", "prob"), 1)
LABELS = Part("labels", ("label", "class", "cls"), 1)
CLASS_SCORES = Part("class scores", ("score", "logit", "conf", "prob", "class", "cls"), None)
COUNT = Part("number of boxes", ("num", "count"), 0)


def find_parts(outputs: Mapping[str, Shape], parts: Sequence[Part], path: str) -> list[str]:
    """Return the names of the outputs that are these parts, by shape and, if that leaves a choice, by name.

    Raises:
        UserError: no output fits, or several do; lists all outputs.
    """
    fitting = [
        chosen for chosen in itertools.permutations(outputs, len(parts))
        if not misfit([outputs[name] for name in chosen], parts)
    ]  # fmt: skip
    named = [chosen for chosen in fitting if all(map(_name_matches, chosen, parts))]
    for found in (fitting, named):
        if len(found) == 1:
            return list(found[0])
    listed = ", ".join(f"{name} {shape_text(shape)}" for name, shape in outputs.items()) or "no outputs"
    problem = "cannot be distinguished by shape and name" if fitting else "are not all among the outputs"
    raise UserError(
        f"extractor.postprocess: {', '.join(part.holds for part in parts)} {problem} of {path} ({listed}): "
        "set extractor.postprocess.output to their names in this order, or choose another postprocess"
    )


def _name_matches(name: str, part: Part) -> bool:
    return any(word in name.lower() for word in part.words)


def shape_text(shape: Shape) -> str:
    """Format a shape, "?" for a free dimension."""
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def misfit(shapes: Sequence[Shape], parts: Sequence[Part]) -> str:
    """Return the content of the first part whose tensor has another shape; empty if all fit."""
    boxes = next(shape for shape, part in zip(shapes, parts, strict=True) if part is BOXES)
    if len(boxes) not in (2, 3):
        return BOXES.holds
    batch, rows = boxes[:-2], boxes[-2]
    for shape, part in zip(shapes, parts, strict=True):
        if part is COUNT:
            fits = all(side in (1, None) for side in shape)
        else:
            lead, rest = shape[: len(batch) + 1], shape[len(batch) + 1 :]
            fits = (
                len(lead) == len(batch) + 1
                and all(side in (1, None) for side in lead[:-1])
                and (lead[-1] == rows or None in (lead[-1], rows))
                and (len(rest) == 1 or (part.columns == 1 and not rest))
                and all(part.columns in (side, None) or side is None for side in rest)
            )
        if not fits:
            return part.holds
    return ""


def join(model: ModelProto, names: Sequence[str], parts: Sequence[Part], batched: bool) -> None:
    """Add the tensor `HEAD` to a graph: the parts side by side, float32 [N, columns].

    Args:
        model: changed in place.
        names: the tensors that are the parts.
        parts: what they are.
        batched: boxes are [1, N, 4], not [N, 4].
    """
    graph, columns = model.graph, []
    for name, part in zip(names, parts, strict=True):
        own = f"{HEAD}/{part.holds}"
        if part is COUNT:
            graph.node.append(helper.make_node("Cast", [name], [f"{own}/int64"], to=TensorProto.INT64))
            _constant(model, f"{own}/shape", [1])
            graph.node.append(helper.make_node("Reshape", [f"{own}/int64", f"{own}/shape"], [own]))
        else:
            graph.node.append(helper.make_node("Cast", [name], [f"{own}/float32"], to=TensorProto.FLOAT))
            graph.node.append(
                helper.make_node("Flatten", [f"{own}/float32"], [own], axis=2 if batched else 1)
            )
            columns.append(own)
    counts = [f"{HEAD}/{part.holds}" for part in parts if part is COUNT]
    rows = f"{HEAD}/rows" if counts else HEAD
    graph.node.append(helper.make_node("Concat", columns, [rows], axis=1))
    if counts:
        _constant(model, f"{HEAD}/zero", [0])
        graph.node.append(helper.make_node("Slice", [rows, f"{HEAD}/zero", *counts, f"{HEAD}/zero"], [HEAD]))


def _constant(model: ModelProto, name: str, values: Sequence[int]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))


def cut_with_head(
    path: str, layers: Sequence[str], postprocess: Postprocessor, image_size: tuple[int, int]
) -> tuple[ModelProto, str]:
    """Return the subgraph that computes `layers` and the tensor with the boxes, and that tensor's name.

    Raises:
        UserError: a named tensor does not exist, no output fits, or the boxes depend on an unknown input.
    """
    model = load_onnx(path)
    fix_size_inputs(model, image_size)
    if postprocess.outputs:  # report a wrong name before anything else
        cut_graph(model, postprocess.outputs, path, "extractor.postprocess.output")
    head = _join(model, postprocess, path) if postprocess.parts else None
    head = head or next(iter(postprocess.outputs), None) or find_output(model, postprocess, image_size, path)
    part = cut_graph(model, [*layers, head], path)
    image = {value.name for value in cut_graph(model, layers, path).graph.input}
    if unknown := [value for value in part.graph.input if value.name not in image]:
        listed = ", ".join(f"{value.name} {shape_text(declared_shape(value) or [])}" for value in unknown)
        raise UserError(
            f"extractor.postprocess: the boxes of {path} depend on an input beside the image ({listed}): "
            "export the detector without it, or name tensors before it in extractor.postprocess.output"
        )
    return part, head


def _join(model: ModelProto, postprocess: Postprocessor, path: str) -> str:
    """Join the tensors of the head in `model` and return the new tensor's name.

    Raises:
        UserError: a tensor is missing or has another shape.
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
        listed = ", ".join(f"{name} {shape_text(shape)}" for name, shape in zip(names, chosen, strict=True))
        raise UserError(
            f"extractor.postprocess.output: {wrong} do not fit the other tensors ({listed}, {path})"
        )
    join(model, names, postprocess.parts, batched=len(chosen[postprocess.parts.index(BOXES)]) == 3)
    return HEAD


def find_output(model: ModelProto, postprocess: Postprocessor, image_size: tuple[int, int], path: str) -> str:
    """Return the first output whose declared shape the postprocessor reads.

    Raises:
        UserError: no output fits; lists all.
    """
    outputs = [value for value in model.graph.output if element_type(value)]
    reasons = []
    for value in outputs:
        shape = declared_shape(value)
        reason = "" if shape is None else postprocess.mismatch(shape, image_size)
        if not reason:
            return value.name
        reasons.append(reason)
    listed = ", ".join(f"{v.name} {shape_text(declared_shape(v) or [])}" for v in outputs) or "no outputs"
    first = reasons[0] if reasons else "set extractor.postprocess.output"
    raise UserError(f"extractor.postprocess: no output of {path} fits ({listed}): {first}")


def declared_shape(value: ValueInfoProto) -> list[int | None] | None:
    """Return a tensor's declared shape, None for a free dimension; None if no shape is declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim]
