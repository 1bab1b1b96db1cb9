"""Heads of several tensors (boxes, scores, ...): found among outputs and joined to rows in the graph."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from roiseg.common.errors import UserError

HEAD = "roiseg/detector_head"

Shape = Sequence[int | None]  # None: not fixed


@dataclass(frozen=True)
class Part:
    """One tensor of a head.

    Args:
        holds: what it holds.
        words: of which the tensor's name has one, where its shape does not tell it from the others.
        columns: numbers a row; None: any, one a class; 0: it is the number of rows that count.
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
    """Names of the outputs that are these parts, by shape and, where that leaves a choice, by name.

    Raises:
        UserError: none fit, or more than one choice is left; lists all outputs.
    """
    fitting = [
        chosen for chosen in itertools.permutations(outputs, len(parts))
        if not misfit([outputs[name] for name in chosen], parts)
    ]  # fmt: skip
    named = [chosen for chosen in fitting if all(map(_is_called, chosen, parts))]
    for found in (fitting, named):
        if len(found) == 1:
            return list(found[0])
    listed = ", ".join(f"{name} {shape_text(shape)}" for name, shape in outputs.items()) or "it has none"
    problem = "cannot be told apart by shape and name" if fitting else "are not all among the outputs"
    raise UserError(
        f"extractor.postprocess: {', '.join(part.holds for part in parts)} {problem} of {path} ({listed}): "
        "set extractor.postprocess.output to their names in this order, or take another adapter"
    )


def _is_called(name: str, part: Part) -> bool:
    return any(word in name.lower() for word in part.words)


def shape_text(shape: Shape) -> str:
    """A shape in words, "?" where a side is not fixed."""
    return f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def misfit(shapes: Sequence[Shape], parts: Sequence[Part]) -> str:
    """What the first tensor that does not have the shape of its part should hold; empty if all fit."""
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
