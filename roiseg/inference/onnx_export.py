"""From a trained model to a checked ONNX file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path
from roiseg.data.batch import RoiSample, collate
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import TrainedModel
from roiseg.inference.onnx_check import TOLERANCE, CheckInput, OnnxCheck, largest_difference, random_rois
from roiseg.inference.onnx_graph import (
    IMAGE,
    PIXEL_SIZE,
    FeatureInput,
    export_decoder,
    merge_with_extractor,
    save_onnx,
)

_CONTEXT = {
    IMAGE: "float32 [1, 3, H, W] the detector's input tensor",
    PIXEL_SIZE: "float32 [1] micrometres, or original pixels if the training data gave none, per input pixel",
}


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Args:
        merged: one file from image to masks, the extractor inside; else the decoder alone.
        half: the decoder's weights and arithmetic in fp16.
        opset: ONNX operator set; newer GridSample is wrong in some TensorRT versions, hence 18.
    """

    merged: bool = False
    half: bool = False
    opset: int = 18


def export_model(
    model: TrainedModel,
    path: Path,
    options: ExportOptions,
    extractor: OnnxExtractor | None = None,
    samples: Sequence[RoiSample] = (),
) -> OnnxCheck:
    """Write the ONNX file of a trained model and compare it with PyTorch.

    The file appears only if the comparison passes.

    Args:
        model: from `load_model`.
        path: the file to write.
        options: what to write.
        extractor: needed for a merged file and for real samples.
        samples: real pictures with ROIs to compare on, beside random input.

    Raises:
        UserError: the comparison failed, or a merged file without the extractor.
    """
    if options.merged and extractor is None:
        raise UserError("a merged export needs the extractor: give its onnx_path")
    inputs = feature_inputs(model)
    exported = export_decoder(model.decoder, inputs, model.image_size, options.opset, options.half)
    if options.merged and extractor is not None:
        exported = merge_with_extractor(exported, extractor.onnx_path, extractor.layers)
    # rounding starts with the picture where a merged extractor is in half precision itself
    half = any(given.type.tensor_type.elem_type == TensorProto.FLOAT16 for given in exported.graph.input)
    tolerance = TOLERANCE["float16" if options.half or half else "float32"]
    decoder, size = model.decoder.float().cpu(), model.image_size
    with atomic_path(path) as temporary:
        save_onnx(exported, temporary, _metadata(model, options))
        random = largest_difference(temporary, decoder, size, _random_inputs(model, options, extractor))
        real = None
        if samples and extractor is not None:
            given = [_real_input(model, options, extractor, sample) for sample in samples]
            real = largest_difference(temporary, decoder, size, given)
        check = OnnxCheck(tolerance, random, real)
        if not check.passed:
            worst = max(check.random, check.real or 0.0)
            raise UserError(
                f"ONNX export of {model.path} differs from PyTorch by {worst:.2e}, above {tolerance:.0e}: "
                "no file was written"
            )
    return check


def feature_inputs(model: TrainedModel) -> list[FeatureInput]:
    """The decoder file's feature inputs, named by layer."""
    return [FeatureInput(name, shape) for name, shape in zip(model.layers, model.shapes, strict=True)]


def _metadata(model: TrainedModel, options: ExportOptions) -> dict[str, str]:
    """What a program that runs the file must know (ONNX metadata properties)."""
    return {
        "producer": "roiseg",
        "checkpoint": model.path.name,
        "epoch": str(model.epoch),
        "image_size": json.dumps(list(model.image_size)),
        "layers": json.dumps(list(model.layers)),
        "preprocess": json.dumps(
            {k: v for k, v in model.config["extractor"]["preprocess"].items() if k[0] != "_"}
        ),
        "rois": "float32 [N, 4] x1, y1, x2, y2 over width and height of the input, 0..1",
        "masks": "float32 [N, H, W] probability of the target at input resolution, 0 outside the ROI",
        **{name: _CONTEXT[name] for name in model.decoder.context_inputs},
        "merged": json.dumps(options.merged),
        "extractor_sha256": model.extractor_sha256,
    }


def _random_inputs(
    model: TrainedModel, options: ExportOptions, extractor: OnnxExtractor | None
) -> list[CheckInput]:
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for count in (0, 1, 3):
        if options.merged and extractor is not None:
            picture = torch.randint(0, 256, (*model.image_size, 3), generator=generator, dtype=torch.uint8)
            inputs.append(_picture_input(model, extractor, picture.numpy(), random_rois(count), 1.7))
            continue
        features = [torch.randn((1, *shape), generator=generator) for shape in model.shapes]
        image = torch.rand(1, 3, *model.image_size, generator=generator)
        inputs.append(_features_input(model, features, image, random_rois(count), 1.7))
    return inputs


def _real_input(
    model: TrainedModel, options: ExportOptions, extractor: OnnxExtractor, sample: RoiSample
) -> CheckInput:
    height, width = model.image_size
    rois = sample.rois / np.array([width, height, width, height], np.float32)
    if options.merged:
        return _picture_input(model, extractor, sample.image, rois, sample.pixel_size)
    image = extractor.preprocess(collate([sample]).images)
    return _features_input(model, extractor.run(image), image, rois, sample.pixel_size)


def _features_input(
    model: TrainedModel, features: Sequence[Tensor], image: Tensor, rois: np.ndarray, pixel_size: float
) -> CheckInput:
    names = [given.name for given in feature_inputs(model)]
    arrays = {name: feature.numpy() for name, feature in zip(names, features, strict=True)}
    return CheckInput(arrays, features, rois, _context(model, image, pixel_size))


def _picture_input(
    model: TrainedModel, extractor: OnnxExtractor, picture: np.ndarray, rois: np.ndarray, pixel_size: float
) -> CheckInput:
    image = extractor.preprocess(torch.from_numpy(picture)[None])
    arrays = {extractor.input_name: image.numpy()}
    return CheckInput(arrays, extractor.run(image), rois, _context(model, image, pixel_size))


def _context(model: TrainedModel, image: Tensor, pixel_size: float) -> dict[str, Tensor]:
    values = {IMAGE: image, PIXEL_SIZE: torch.tensor([pixel_size])}
    return {name: values[name] for name in model.decoder.context_inputs}
