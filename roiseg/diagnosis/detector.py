"""Describe the detector's inputs, outputs and inner tensors, and check that it finds the annotated boxes.

A miss hints at preprocessing, head or labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, ValueInfoProto
from rich.markup import escape
from rich.table import Table

from roiseg.data.batch import collate
from roiseg.data.datamodule import RoiDataModule
from roiseg.diagnosis.finding import Finding
from roiseg.extractor.graph import element_type, shape_as_text
from roiseg.extractor.tensors import TensorInfo, image_input
from roiseg.geometry.boxes import iou


def inputs_and_outputs(model: ModelProto) -> Iterator[Finding]:
    """Report inputs and outputs."""
    yield Finding("detector's input", "ok", _words(image_input(model)))
    yield Finding("detector's outputs", "ok", "; ".join(map(_words, model.graph.output)))


def _words(value: ValueInfoProto) -> str:
    return f"{value.name}: {element_type(value) or 'no tensor'} {shape_as_text(value)}"


def overview(tensors: Sequence[TensorInfo]) -> Finding:
    """Report how many tensors can be decoded, and how to list them."""
    strides = sorted({tensor.stride for tensor in tensors if tensor.stride is not None})
    usable = sum(tensor.stride is not None for tensor in tensors)
    text = f"{len(tensors)}, of which {usable} can be decoded"
    if not usable:
        return Finding("detector's tensors", "error", text, "check extractor.preprocess.image_size")
    text += f", at strides {', '.join(map(str, strides))}"
    return Finding(
        "detector's tensors", "note", text, "tensors='*' lists all, tensors=Concat those with this name"
    )


def tensor_table(tensors: Sequence[TensorInfo], chosen: Sequence[str]) -> Table:
    """Lay out tensors for the terminal; those that training would read are marked."""
    table = Table(title="tensors of the detector (cost: share of its computation)")
    table.add_column("name", min_width=max((len(tensor.name) for tensor in tensors), default=0))
    for name in ("made by", "shape", "stride", "cost"):
        table.add_column(name, justify="right")
    table.add_column("extractor.layers")
    for tensor in tensors:
        mark = "chosen" if tensor.name in chosen else "can be" if tensor.stride else tensor.obstacle
        shape = "?" if tensor.shape is None else " x ".join(map(str, tensor.shape))
        style = "bold green" if tensor.name in chosen else None if tensor.stride else "dim"
        table.add_row(
            escape(tensor.name),
            escape(tensor.operator),
            shape,
            str(tensor.stride or ""),
            f"{tensor.cost:.0%}",
            mark,
            style=style,
        )
    return table


_ABOUT = "detector's boxes"
_ENOUGH = 1 / 3  # of the annotated boxes; a small detector misses small persons
_FOUND = 0.5  # IoU


def recall(data: RoiDataModule, images: int = 20) -> Iterator[Finding]:
    """Run the detector on some validation images and count the annotated boxes it finds.

    Args:
        data: ready to be used.
        images: how many.
    """
    extractor = data.extractor
    if extractor.postprocess is None:
        text = "not read (extractor.postprocess is null): training works without, prediction needs boxes=FILE"
        yield Finding(_ABOUT, "note", text, "for example postprocess@extractor.postprocess=yolo")
        return
    extractor.postprocess.plausibility.reported = True  # here, by a finding
    items = np.unique(np.linspace(0, len(data.dataset("val")) - 1, images).astype(int)).tolist()
    samples = data.samples("val", items)
    found = annotated = 0
    for sample in samples:
        inputs = extractor.preprocess(collate([sample]).images)
        _, (detections,) = extractor.run_with_detections(inputs)
        overlap = iou(sample.rois, detections.boxes)
        found += int((overlap.max(axis=1, initial=0) >= _FOUND).sum())
        annotated += len(sample.rois)
    text = f"{found} of {annotated} annotated boxes in {len(samples)} images found (IoU {_FOUND} or more)"
    good = found >= _ENOUGH * annotated
    yield Finding(_ABOUT, "ok" if good else "warning", text, "" if good else (
        "check extractor.preprocess (color, divisor, mean, std, align) and extractor.postprocess (labels)"
    ))  # fmt: skip
    reader = extractor.postprocess
    for doubt in (reader.plausibility.warning, reader.label_warning(data.category_id)):
        if doubt and not good:  # the detector finds them, so its output is read correctly
            yield Finding(_ABOUT, "warning", doubt)
