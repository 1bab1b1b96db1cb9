"""Which tensor of the file holds the boxes, and the graph cut to compute it along with the features."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto

from roiseg.common.errors import UserError
from roiseg.extractor.detector.base import Detector
from roiseg.extractor.graph import cut_graph, element_type, load_onnx, shape_words


def cut_with_detector(
    path: str, layers: Sequence[str], detector: Detector, image_size: tuple[int, int]
) -> tuple[ModelProto, str]:
    """The part of a file that computes `layers` and the tensor with the boxes, and that tensor's name.

    Raises:
        UserError: no such tensor, or no output that fits.
    """
    model = load_onnx(path)
    head = detector.output or find_output(model, detector, image_size, path)
    key = "extractor.detector.output" if head == detector.output else "extractor.layers"
    return cut_graph(model, [*layers, head], path, key), head


def find_output(model: ModelProto, detector: Detector, image_size: tuple[int, int], path: str) -> str:
    """The first output of the file whose declared shape an adapter reads.

    Raises:
        UserError: there is none; all outputs are listed.
    """
    outputs = [value for value in model.graph.output if element_type(value)]
    reasons = []
    for value in outputs:
        shape = declared_shape(value)
        reason = "" if shape is None else detector.mismatch(shape, image_size)
        if not reason:
            return value.name
        reasons.append(reason)
    listed = ", ".join(f"{value.name} {shape_words(value)}" for value in outputs) or "it has none"
    first = reasons[0] if reasons else "set extractor.detector.output"
    raise UserError(f"extractor.detector: no output of {path} fits ({listed}): {first}")


def declared_shape(value: ValueInfoProto) -> list[int | None] | None:
    """The shape a file declares for a tensor, None where a side is not fixed; None if it declares none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim]
