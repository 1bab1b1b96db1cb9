"""Run an exported file in every runtime that is installed, and compare its masks with PyTorch's."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from roiseg.common.console import status
from roiseg.common.errors import UserError
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import TrainedModel
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.sources.source import Source
from roiseg.onnx_export.boxes import BOXES, SCORES
from roiseg.onnx_export.export import ExportOptions, export_graph
from roiseg.onnx_export.graph import ROIS, MaskGraph, save_onnx
from roiseg.onnx_export.outputs import MASKS, ROI_MASKS
from roiseg.onnx_export.runtimes import (
    Feeds,
    NotInstalledError,
    Results,
    Runtime,
    onnx_runtime,
    onnx_runtime_node,
    onnx_runtime_web,
    open_vino,
)
from roiseg.onnx_export.verify import image_input, with_image

LEAST_IOU = 0.999  # of a runtime in float32
_ROIS = 50
_CALIBRATION = 32  # images


@dataclass(frozen=True)
class Row:
    """What was measured in one runtime.

    Attributes:
        runtime, precision: its name, and of the file.
        failure: why it gave no masks, or the command that installs it; empty if it gave them.
        difference: largest, of a mask's values from PyTorch's.
        mean_iou, worst_iou: of the masks with PyTorch's.
        milliseconds: per image, median.
        megabytes: of the file.
    """

    runtime: str
    precision: str
    failure: str = ""
    difference: float = 0.0
    mean_iou: float = 0.0
    worst_iou: float = 0.0
    milliseconds: float = 0.0
    megabytes: float = 0.0

    @property
    def passed(self) -> bool:
        """Tell whether the masks, if there are any and the file is in float32, are PyTorch's."""
        return bool(self.failure) or self.precision != "fp32" or self.mean_iou >= LEAST_IOU


def certify(file: OnnxFile, model: TrainedModel, extractor: OnnxExtractor, source: Source) -> list[Row]:
    """Compare a file with its model on boxes that the detector finds in images.

    The file in fp16 and in int8 is made for the purpose and removed.

    Args:
        file: the exported file.
        model: it was exported from.
        extractor: the detector, with a postprocessor.
        source: images; those after the compared ones, or else all, calibrate the file in int8.

    Raises:
        UserError: the file gives neither `masks` nor `roi_masks`, or the detector finds nothing.
    """
    output = next((name for name in (MASKS, ROI_MASKS) if name in file.outputs), None)
    if output is None:
        raise UserError(f"{file.path} gives neither {MASKS} nor {ROI_MASKS}, which are compared")
    feeds, expected, decoder_feeds = _cases(file, model, extractor, source, output)
    outputs = [name for name in file.outputs if name not in (BOXES, SCORES)]
    options = ExportOptions(
        file.merged, boxes=file.finds_boxes, outputs=outputs, dilate=file.dilate, batch=file.batch,
        free_size=file.free_size,
    )  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        half, int8 = Path(folder, "fp16.onnx"), Path(folder, "int8.onnx")

        def write_half() -> None:
            save_onnx(export_graph(model, replace(options, half=True), extractor), half, {})

        def write_int8() -> None:
            change = functools.partial(quantized, feeds=decoder_feeds)
            save_onnx(export_graph(model, options, extractor, change), int8, {})

        runs: list[tuple[str, str, Path, Runtime, Callable[[], None]]] = [
            ("ONNX Runtime", "fp32", file.path, onnx_runtime, lambda: None),
            ("ONNX Runtime", "fp16", half, onnx_runtime, write_half),
            ("ONNX Runtime", "int8", int8, onnx_runtime, write_int8),
            ("OpenVINO", "fp32", file.path, open_vino, lambda: None),
            ("ONNX Runtime Web", "fp32", file.path, onnx_runtime_web, lambda: None),
            ("onnxruntime-node", "fp32", file.path, onnx_runtime_node, lambda: None),
        ]
        for name, precision, path, runtime, prepare in runs:
            with status(f"{name}, {precision}"):
                try:
                    prepare()
                    rows.append(_compared(name, precision, path, runtime(path, feeds, output), expected))
                except NotInstalledError as error:
                    rows.append(Row(name, precision, f"not run: {error}"))
                except Exception as error:  # each runtime has its own
                    reason = " ".join(str(error).split())[:200] or type(error).__name__
                    rows.append(Row(name, precision, f"failed: {reason}"))
    return rows


def _cases(
    file: OnnxFile, model: TrainedModel, extractor: OnnxExtractor, source: Source, output: str
) -> tuple[Feeds, list[NDArray[Any]], Feeds]:
    """Return the file's inputs and PyTorch's output of images with enough ROIs, the decoder's of others."""
    graph = MaskGraph(
        model.decoder.float().cpu(), torch.float32, model.decision, (output,), file.dilate
    ).eval()
    letterbox, size = extractor.preprocess.letterbox, np.tile(model.image_size[::-1], 2).astype(np.float32)
    feeds: Feeds = []
    decoder_feeds: Feeds = []
    expected: list[NDArray[Any]] = []
    for item in source:
        image = item.read()
        transform = letterbox.fit(*image.shape[:2])
        boxed = torch.from_numpy(letterbox.apply(image, transform))[None]
        _, (found,) = extractor.run_with_detections(extractor.preprocess(boxed))
        if not len(found):
            continue
        rois = (found.boxes / size)[: None if file.finds_boxes else _ROIS]
        given = image_input(model, extractor, boxed, rois, 1 / transform.scale, file.merged, file.finds_boxes)
        known = {name: value.numpy() for name, value in given.context.items()}
        known[ROIS] = with_image(rois) if file.batch else rois
        features = [feature.numpy() for feature in given.features]
        decoder_feeds.append({**dict(zip(model.layers, features, strict=True)), **known})
        if sum(map(len, expected)) < _ROIS:
            known |= given.onnx_inputs
            feeds.append({one.name: known[one.name] for one in file.session.get_inputs()})
            with torch.no_grad():
                expected.append(graph(given.features, torch.from_numpy(rois), **given.context)[0].numpy())
        elif len(decoder_feeds) == len(feeds) + _CALIBRATION:
            break
    if not feeds:
        raise UserError("source: the detector finds nothing in these images, give others")
    return feeds, expected, decoder_feeds[len(feeds) :] or decoder_feeds


def _compared(
    name: str, precision: str, path: Path, results: Results, expected: Sequence[NDArray[Any]]
) -> Row:
    found, times = results
    for one, wanted in zip(found, expected, strict=True):
        if one.shape != wanted.shape:
            raise ValueError(f"masks of shape {list(one.shape)}, PyTorch {list(wanted.shape)}")
    ious = [iou for pair in zip(found, expected, strict=True) for iou in _ious(*pair)]
    worst = max(float(np.abs(one - wanted).max()) for one, wanted in zip(found, expected, strict=True))
    figures = worst, float(np.mean(ious)), float(np.min(ious)), float(np.median(times))
    return Row(name, precision, "", *figures, path.stat().st_size / 1e6)


def _ious(found: NDArray[Any], expected: NDArray[Any]) -> list[float]:
    """Return the IoU of each of the masks [N, H, W], or of class 1 of [N, K, h, w]; 1 if both are empty."""
    one, other = ((a if a.ndim == 3 else a[:, 1]) >= 0.5 for a in (found, expected))
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return [float(b / e) if e else 1.0 for b, e in zip(both, either, strict=True)]


def quantized(decoder: ModelProto, feeds: Feeds) -> ModelProto:
    """Return a decoder with its inner convolutions in int8, calibrated on inputs; all else stays in float.

    The first convolution reads the features, whose range is wide, and the last three decide about the pixels
    of the border: in int8 they cost most. So does the detector: with YOLOX-Nano in int8, too, the IoU with
    PyTorch's masks falls from 0.99 to 0.82.
    """
    from onnxruntime import quantization

    kinds = ["Conv", "ConvTranspose", "Gemm"]
    names = [node.name for node in decoder.graph.node if node.op_type in kinds]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            decoder, str(path), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=kinds, nodes_to_quantize=names[1:-3] or names,
        )  # fmt: skip
        return onnx.load(path)
