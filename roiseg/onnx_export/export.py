"""Export a trained model to an ONNX file and verify it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from onnx import ModelProto, TensorProto
from onnx.defs import onnx_opset_version

from roiseg.common.errors import UserError, missing_extra
from roiseg.common.files import as_utf8, atomic_path
from roiseg.data.batch import RoiSample
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import TrainedModel
from roiseg.onnx_export.boxes import BOXES, SCORES, BoxReader
from roiseg.onnx_export.graph import (
    IMAGE,
    PIXEL_SIZE,
    ROIS,
    FeatureInput,
    export_decoder,
    save_onnx,
    seal,
    set_shape,
    simplify_graph,
)
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.outputs import DEFAULT, check_outputs, output_texts
from roiseg.onnx_export.sidecar import check_sidecar, facts_of, preprocess_options, write_sidecar
from roiseg.onnx_export.verify import TOLERANCE, OnnxCheck, compare, other_sizes

_MIN_OPSET = 18  # the lowest that PyTorch's exporter writes
_TENSORS = {
    ROIS: "float32 [N, 4] x1, y1, x2, y2 over width and height of the input, 0..1",
    IMAGE: "float32 [1, 3, H, W] the detector's input tensor",
    PIXEL_SIZE: "float32 [1] micrometres, or original pixels if the training data gave none, per input pixel",
    BOXES: "float32 [N, 4] x1, y1, x2, y2 in pixels of the input, by descending score, after NMS",
    SCORES: "float32 [N] scores of the boxes, 0..1",
}
_BATCH_TENSORS = {
    ROIS: "float32 [N, 5], in any order: index of the image in the batch, x1, y1, x2, y2 over width and "
    "height of the input, 0..1",
    **{name: _TENSORS[name].replace("[1", "[B") for name in (IMAGE, PIXEL_SIZE)},
}


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Args:
        merged: include the extractor: one file from image to masks; else the decoder alone.
        boxes: include the detector's boxes after score threshold and NMS: image -> boxes, scores, masks.
        half: weights and arithmetic of the decoder in fp16.
        opset: ONNX operator set.
        simplify: fold constants and remove redundant nodes with onnxslim.
        outputs: names of outputs, see `roiseg.onnx_export.outputs`; boxes and scores are added to them.
        dilate: pixels of the input by which the masks are dilated.
        batch: take any number of images, and `rois` with the index of their image.
        free_size: take inputs of any height and width that detector and decoder can process.

    Raises:
        UserError: boxes without merged, or with batch or free_size, or an opset that PyTorch cannot write or
            the installed ONNX does not know, or simplify without onnxslim, or unknown outputs.
    """

    merged: bool = False
    half: bool = False
    opset: int = 18
    boxes: bool = False
    simplify: bool = False
    outputs: Sequence[str] = DEFAULT
    dilate: int = 0
    batch: bool = False
    free_size: bool = False

    def __post_init__(self) -> None:
        check_outputs(self.outputs, self.dilate)
        if self.boxes and not self.merged:
            raise UserError("boxes=true needs the detector inside the file: add merged=true")
        if self.boxes and (self.batch or self.free_size):
            option = "batch" if self.batch else "free_size"
            raise UserError(f"boxes=true finds the boxes of one image of one size: leave out {option}=true")
        if not _MIN_OPSET <= self.opset <= onnx_opset_version():
            raise UserError(f"opset is {self.opset}, it must be from {_MIN_OPSET} to {onnx_opset_version()}")
        if self.simplify and find_spec("onnxslim") is None:
            raise missing_extra("simplify=true", "simplify")


def export_model(
    model: TrainedModel,
    path: Path,
    options: ExportOptions,
    extractor: OnnxExtractor | None = None,
    samples: Sequence[RoiSample] = (),
) -> OnnxCheck:
    """Write the ONNX file of a trained model, its sidecar and model card, and compare it with PyTorch.

    The files are written only if the comparison passes.

    Args:
        model: from `load_model`.
        path: the file to write.
        options: what to write.
        extractor: needed for a merged file and for real samples.
        samples: real images with ROIs, compared in addition to random input.

    Raises:
        UserError: the comparison failed, the extractor is missing for a merged file, or a file is in the way.
    """
    check_sidecar(path)
    exported = export_graph(model, options, extractor)
    tolerance = allowed_difference(exported)
    with atomic_path(path) as temporary:
        metadata = _metadata(model, options, exported)
        save_onnx(exported, temporary, metadata)
        check = compare(
            temporary,
            model,
            tolerance,
            extractor,
            samples,
            options.merged,
            options.boxes,
            options.dilate,
            options.free_size,
        )
        if not check.passed:
            worst = max(check.random, check.real or 0.0)
            boxes = f", boxes by {check.boxes:.2e} pixels" if check.boxes else ""
            raise UserError(
                f"ONNX export of {model.path} differs from PyTorch by {worst:.2e}{boxes}, above "
                f"{tolerance:.0e}: no file was written"
            )
        write_sidecar(path, facts_of(model, exported, metadata, check, extractor), temporary)
    return check


def export_graph(
    model: TrainedModel,
    options: ExportOptions,
    extractor: OnnxExtractor | None = None,
    change: Callable[[ModelProto], ModelProto] | None = None,
) -> ModelProto:
    """Return the ONNX graph of a trained model; see `export_model`.

    Args:
        model, options, extractor: see there.
        change: changes the decoder's graph before it is merged.
    """
    if options.merged and extractor is None:
        raise UserError("a merged export needs the extractor: give its onnx_path")
    if options.free_size and not model.decoder.any_size:
        raise UserError(
            f"free_size=true: the decoder of {model.path} has maps of a fixed size: leave it out, or "
            "train one of the ROI frame, such as model=pyramid"
        )
    if options.merged and extractor is not None:
        _check_detector(extractor, options)
    reader = box_reader(extractor) if options.boxes and extractor is not None else None
    inputs = feature_inputs(model)
    exported = export_decoder(
        model.decoder, inputs, model.image_size, options.opset, options.half, model.decision,
        options.outputs, options.dilate, options.batch, options.free_size,
    )  # fmt: skip
    if change is not None:
        exported = change(exported)
    if options.merged and extractor is not None:
        exported = merge_with_extractor(exported, extractor.onnx_path, extractor.layers, reader)
        image = next(value for value in exported.graph.input if value.name == extractor.input_name)
        sides = ("height", "width") if options.free_size else extractor.preprocess.image_size
        set_shape(image, ("batch" if options.batch else 1, 3, *sides))
    if options.simplify:
        exported = simplify_graph(exported)
    written = max(entry.version for entry in exported.opset_import if entry.domain in ("", "ai.onnx"))
    if written != options.opset:  # the exporter silently falls back to its own
        raise UserError(f"{model.path} cannot be exported in opset {options.opset}: use opset={written}")
    return exported


def _check_detector(extractor: OnnxExtractor, options: ExportOptions) -> None:
    """Raise a UserError if a detector cannot take a batch or other sizes, as the options say."""
    name = extractor.onnx_path
    advice = "export the detector with a dynamic {}, or leave out merged=true or {}=true"
    if options.batch and not extractor.batched:
        found = "works for one image only" if extractor.free_batch else "has a fixed batch of 1"
        raise UserError(f"batch=true: {name} {found}: {advice.format('batch', 'batch')}")
    if options.free_size:
        height, width = other_sizes(extractor.preprocess.image_size, extractor.strides)[0]
        try:
            extractor.resized((height, width))
        except UserError as error:
            advice = advice.format("height and width", "free_size")
            raise UserError(
                f"free_size=true: {name} does not take {height}x{width} ({error}): {advice}"
            ) from None


def allowed_difference(exported: ModelProto) -> float:
    """Return the tolerance of the comparison, larger if the file has inputs or weights in fp16."""
    half = TensorProto.FLOAT16
    inputs = any(value.type.tensor_type.elem_type == half for value in exported.graph.input)
    stored = any(weight.data_type == half for weight in exported.graph.initializer)
    return TOLERANCE["float16" if inputs or stored else "float32"]


def box_reader(extractor: OnnxExtractor) -> BoxReader:
    """Describe how the detector's boxes are read.

    Raises:
        UserError: the extractor has no `postprocess`, or its output does not fit.
    """
    head, shape = extractor.head()
    assert extractor.postprocess is not None
    return BoxReader(extractor.postprocess, head, shape, extractor.preprocess.image_size)


def feature_inputs(model: TrainedModel) -> list[FeatureInput]:
    """Return the feature inputs of the decoder file, named by layer."""
    return [FeatureInput(name, shape) for name, shape in zip(model.layers, model.shapes, strict=True)]


def _metadata(model: TrainedModel, options: ExportOptions, exported: ModelProto) -> dict[str, str]:
    """Return the ONNX metadata that a program needs to run the file."""
    extractor = model.config["extractor"]
    inputs = [value.name for value in exported.graph.input]
    described = [*inputs, *(value.name for value in exported.graph.output)]
    # the detector's own name
    image_name = next(name for name in inputs if name not in (ROIS, PIXEL_SIZE)) if options.merged else None
    texts = _TENSORS | (_BATCH_TENSORS if options.batch else {})
    texts |= output_texts(model.decoder.frame, options.dilate, options.batch)
    tensors = {**texts, **({image_name: texts[IMAGE]} if image_name else {})}
    metadata = {
        "producer": "roiseg",
        "checkpoint": as_utf8(model.name),
        "epoch": str(model.epoch),
        "image_size": json.dumps(list(model.image_size)),
        "layers": json.dumps(list(model.layers)),
        "preprocess": json.dumps(preprocess_options(model)),
        **{name: text for name, text in tensors.items() if name in described},
        "category_id": json.dumps(model.category_id),
        "decision": json.dumps(model.decision.node()),
        "dilate": json.dumps(options.dilate),
        "merged": json.dumps(options.merged),
        "postprocess": json.dumps(extractor.get("postprocess")),
        "image_input": json.dumps(image_name),
        "extractor_sha256": model.extractor_sha256,
    }
    return {**metadata, "seal": seal(metadata, described)}
