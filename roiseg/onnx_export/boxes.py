"""Export the detector's boxes as an ONNX graph: head decoding, score threshold, NMS."""

from __future__ import annotations

from dataclasses import dataclass

import onnx.parser
import torch
from onnx import ModelProto, compose
from torch import Tensor, nn

from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.onnx_export.graph import quiet_export

RAW, BOXES, SCORES = "detector_output", "boxes", "scores"

_CANDIDATES = ("all_boxes", "all_scores")

# NonMaxSuppression takes scores above the threshold only and orders by score, as `Postprocessor` does
_CHOOSE = """
<ir_version: 10, opset_import: ["" : {opset}]>
choose (float[A, 4] all_boxes, float[A] all_scores) => (float[N, 4] boxes, float[N] scores, float[N, 4] rois)
<int64[1] most = {{{most}}}, float[1] iou = {{{iou}}}, float[1] least = {{{least}}},
 float[4] size = {{{width}, {height}, {width}, {height}}}, float zero = {{0.0}},
 int64[1] first = {{0}}, int64[2] both = {{0, 1}}, int64 last = {{2}}>
{{
    batch_boxes = Unsqueeze(all_boxes, first)
    batch_scores = Unsqueeze(all_scores, both)
    selected = NonMaxSuppression(batch_boxes, batch_scores, most, iou, least)
    index = Gather <axis = 1> (selected, last)
    scores = Gather <axis = 0> (all_scores, index)
    uncut = Gather <axis = 0> (all_boxes, index)
    positive = Max(uncut, zero)
    boxes = Min(positive, size)
    rois = Div(boxes, size)
}}
"""


@dataclass(frozen=True)
class BoxReader:
    """How boxes are read from a detector file."""

    postprocess: Postprocessor
    head: str  # name of the tensor that holds them
    shape: tuple[int, ...]  # of that tensor for one image
    image_size: tuple[int, int]  # (H, W) of the detector's input


class _Candidates(nn.Module):
    def __init__(self, reader: BoxReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores, _ = self.reader.postprocess.candidates(raw, self.reader.image_size)
        return boxes, scores


def export_boxes(reader: BoxReader, opset: int) -> ModelProto:
    """Export `Postprocessor.__call__` as a graph.

    Returns:
        A model with input `detector_output`, the head's output as float32, and outputs `boxes` [N, 4]
        (x1, y1, x2, y2 in input pixels, by descending score), `scores` [N] and `rois` [N, 4] (normalized
        boxes).
    """
    parts = {"detector/": _export_candidates(reader, opset), "chosen/": _choose(reader, opset)}
    for prefix, part in parts.items():
        compose.add_prefix(part, prefix, rename_inputs=False, rename_outputs=False, inplace=True)
        part.ir_version = 10
    decoding, choosing = parts.values()
    return compose.merge_models(decoding, choosing, io_map=[(name, name) for name in _CANDIDATES])


def _export_candidates(reader: BoxReader, opset: int) -> ModelProto:
    shape, free = list(reader.shape), {}
    if reader.postprocess.free_rows:
        rows = len(shape) - 2
        shape[rows], free = 5, {rows: torch.export.Dim("num_rows")}
    with quiet_export():
        program = torch.onnx.export(
            _Candidates(reader).eval(), (torch.zeros(shape),), input_names=[RAW],
            output_names=_CANDIDATES, dynamic_shapes={"raw": free}, opset_version=opset,
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def _choose(reader: BoxReader, opset: int) -> ModelProto:
    postprocess, (height, width) = reader.postprocess, reader.image_size
    text = _CHOOSE.format(
        opset=opset,
        most=postprocess.max_detections,
        iou=1.0 if postprocess.iou_threshold is None else postprocess.iou_threshold,  # no box overlaps more
        least=postprocess.score_threshold,
        height=float(height),
        width=float(width),
    )
    return onnx.parser.parse_model(text)
