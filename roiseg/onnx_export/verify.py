"""Compare an exported file with the PyTorch decoder that it was exported from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.data.batch import RoiSample
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.base import Detections
from roiseg.inference.checkpoint import TrainedModel
from roiseg.onnx_export.boxes import BOXES, SCORES
from roiseg.onnx_export.graph import IMAGE, PIXEL_SIZE, ROIS, MaskGraph
from roiseg.onnx_export.outputs import LABELS, MASK_SCORES, MASKS, ROI_MASKS, wanted_output

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
_BOX_TOLERANCE = 100  # input pixels per unit of probability
_COMPARED = (MASKS, ROI_MASKS, MASK_SCORES)  # `labels` follow from the masks
_ROI_COUNTS = (0, 1, 3)  # of the random inputs
_PIXEL_SIZE = 1.7  # of the random inputs


@dataclass(frozen=True)
class OnnxCheck:
    """Largest absolute differences between ONNX Runtime and PyTorch; of mask probabilities unless stated."""

    tolerance: float
    random: float  # on random features and ROIs
    real: float | None = None  # on real images with their ROIs; None without images
    boxes: float | None = None  # of the detector's boxes, in input pixels; None if the file finds none
    detections: int | None = None  # number of boxes compared

    @property
    def passed(self) -> bool:
        """Tell whether all differences are within the tolerance."""
        masks = max(self.random, self.real or 0.0) <= self.tolerance
        return masks and (self.boxes or 0.0) <= self.tolerance * _BOX_TOLERANCE

    def summary(self) -> dict[str, float | bool | None]:
        """Return the entries for summary.json; without boxes where the file finds none."""
        known = asdict(self)
        if self.boxes is None:
            del known["boxes"], known["detections"]
        return {**known, "passed": self.passed}


@dataclass(frozen=True)
class CheckInput:
    """One image, as input of the file and of PyTorch; a file that finds the boxes takes no ROIs."""

    onnx_inputs: dict[str, np.ndarray]  # features or image
    features: Sequence[Tensor]  # [1, C_l, h_l, w_l] of the same image
    rois: np.ndarray | None = None  # float32 [N, 4] normalized
    context: dict[str, Tensor] = field(default_factory=dict)  # further inputs of the decoder
    detections: Detections | None = None  # what the postprocessor finds, for a file that finds the boxes


def random_rois(count: int, seed: int = 0) -> np.ndarray:
    """Return normalized boxes [count, 4] of all sizes."""
    points = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2))
    low, high = points.min(1), points.max(1)
    return np.concatenate([low, np.maximum(high, low + 0.02)], 1).astype(np.float32)


def compare(
    path: Path,
    model: TrainedModel,
    tolerance: float,
    extractor: OnnxExtractor | None = None,
    samples: Sequence[RoiSample] = (),
    merged: bool = False,
    boxes: bool = False,
    dilate: int = 0,
    free_size: bool = False,
) -> OnnxCheck:
    """Compare all outputs of an exported file with PyTorch, on random input and on real samples.

    Args:
        path: the file.
        model: the model it was exported from.
        tolerance: largest allowed difference of a probability.
        extractor: the detector; needed for a merged file and for samples.
        samples: real images with ROIs.
        merged: the file takes an image.
        boxes: the file finds the boxes itself.
        dilate: pixels by which its masks are dilated.
        free_size: it takes other sizes; random input has two of them, too.
    """
    overlapping, exclusive = replace(model.decision, exclusive=False), model.decision.exclusive
    graph = MaskGraph(model.decoder.float().cpu(), torch.float32, overlapping, _COMPARED, dilate).eval()
    random = _random_inputs(model, extractor if merged else None, boxes)
    real: list[CheckInput] = []
    if extractor is not None:
        height, width = model.image_size
        for sample in samples:
            rois = sample.rois / np.array([width, height, width, height], np.float32)
            image = torch.from_numpy(sample.image)[None]
            real.append(image_input(model, extractor, image, rois, sample.pixel_size, merged, boxes))
    masks, distance = _differences(path, graph, random, exclusive)
    for size in other_sizes(model.image_size, model.decoder.strides) if free_size else ():
        resized = None if extractor is None or not merged else extractor.resized(size)
        other = _random_inputs(_resized(model, size), resized, boxes)
        masks = max(masks, _differences(path, graph, other, exclusive)[0])
    real_masks = None
    if real:
        real_masks, real_distance = _differences(path, graph, real, exclusive)
        distance = max(distance, real_distance)
    found = [given.detections for given in (*random, *real) if given.detections is not None]
    return OnnxCheck(
        tolerance,
        masks,
        real_masks,
        distance if boxes else None,
        sum(map(len, found)) if boxes else None,
    )


def other_sizes(image_size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return two other sizes (H, W) of the input, which differ from it by multiples of 64 and the strides."""
    (height, width), step = image_size, math.lcm(64, *strides)
    return [(height + step, width + 2 * step), (height + 2 * step, width + step)]


def _resized(model: TrainedModel, size: tuple[int, int]) -> TrainedModel:
    (height, width), (before_h, before_w) = size, model.image_size
    shapes = [(c, h * height // before_h, w * width // before_w) for c, h, w in model.shapes]
    return replace(model, image_size=size, shapes=shapes)


def largest_difference(path: Path, decoder: Decoder, inputs: Sequence[CheckInput]) -> float:
    """Return the largest difference of the outputs between the file and the decoder (fp32) it came from."""
    return _differences(path, MaskGraph(decoder, outputs=_COMPARED).eval(), inputs)[0]


def _differences(
    path: Path, graph: MaskGraph, inputs: Sequence[CheckInput], exclusive: bool = False
) -> tuple[float, float]:
    """Return the largest difference of the outputs, and of boxes in input pixels.

    Args:
        path: the file.
        graph: the same in PyTorch, whose masks may overlap; gives `_COMPARED`.
        inputs: of both.
        exclusive: the masks of the file do not overlap.
    """
    with utf8_path(path) as name:
        session = ort.InferenceSession(name, providers=["CPUExecutionProvider"])
    height, width = graph.decoder.image_size
    masks_worst = boxes_worst = 0.0
    groups = [inputs, inputs[:1]] if takes_batch(session) else [[given] for given in inputs]
    runs = [pair for group in groups for pair in zip(group, _run(session, group), strict=True)]
    for given, found in runs:
        rois = given.rois
        if given.detections is not None:
            boxes = found.pop(BOXES)
            rois = boxes / np.array([width, height, width, height], np.float32)
            boxes_worst = max(boxes_worst, _difference(path, BOXES, boxes, given.detections.boxes))
            scores = _difference(path, SCORES, found.pop(SCORES), given.detections.scores)
            masks_worst = max(masks_worst, scores)
        assert rois is not None
        with torch.no_grad():
            outputs = graph(list(given.features), torch.from_numpy(rois), **given.context)
        expected = {name: output.numpy() for name, output in zip(_COMPARED, outputs, strict=True)}
        for name, values in found.items():
            wanted = wanted_output(name, values, expected, exclusive)
            masks_worst = max(masks_worst, _difference(path, name, values, wanted))
    return masks_worst, boxes_worst


def takes_batch(session: ort.InferenceSession) -> bool:
    """Return whether a file takes several images, and so `rois` with the index of their image."""
    return any(given.name == ROIS and given.shape[1] == 5 for given in session.get_inputs())


def with_image(rois: np.ndarray, index: int = 0) -> np.ndarray:
    """Return ROIs [N, 4] with the index of their image in front, [N, 5]."""
    return np.insert(rois, 0, index, axis=1)


def _run(session: ort.InferenceSession, group: Sequence[CheckInput]) -> list[dict[str, np.ndarray]]:
    """Run a file on images, all at once; return the outputs of each."""
    each = []
    for index, given in enumerate(group):
        arrays = {name: value.numpy() for name, value in given.context.items()} | given.onnx_inputs
        if given.rois is not None:
            arrays[ROIS] = with_image(given.rois, index) if takes_batch(session) else given.rois
        each.append(arrays)
    types = {i.name: np.float16 if "float16" in i.type else np.float32 for i in session.get_inputs()}
    inputs = {name: np.concatenate([a[name] for a in each]).astype(dtype) for name, dtype in types.items()}
    outputs = [output.name for output in session.get_outputs()]
    results = dict(zip(outputs, session.run(outputs, inputs), strict=True))
    if not takes_batch(session):
        return [results]
    ends = np.cumsum([len(arrays[ROIS]) for arrays in each])
    return [
        {
            name: _own_labels(values[index], start) if name == LABELS else values[start:end]
            for name, values in results.items()
        }
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def _own_labels(labels: np.ndarray, start: int) -> np.ndarray:
    """Return labels [H, W] of a batch as those of an image alone, whose first ROI is `start`."""
    return np.where(labels > 0, labels - start, 0)


def _difference(path: Path, what: str, found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise UserError(f"{path} gives {what} of shape {found.shape}, PyTorch {expected.shape}: they differ")
    if not found.size:
        return 0.0
    difference = float(np.abs(found - expected).max())
    return math.inf if math.isnan(difference) else difference


def _random_inputs(model: TrainedModel, extractor: OnnxExtractor | None, boxes: bool) -> list[CheckInput]:
    """Return random images for a merged file, random features without an extractor."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    inputs = []
    for count in _ROI_COUNTS:
        rois = random_rois(count)
        if extractor is not None:
            noise = torch.from_numpy(rng.integers(0, 256, (1, *model.image_size, 3), dtype=np.uint8))
            inputs.append(image_input(model, extractor, noise, rois, _PIXEL_SIZE, True, boxes))
            continue
        features = [torch.randn((1, *shape), generator=generator) for shape in model.shapes]
        image = torch.rand(1, 3, *model.image_size, generator=generator)
        arrays = {name: feature.numpy() for name, feature in zip(model.layers, features, strict=True)}
        inputs.append(CheckInput(arrays, features, rois, _context(model, image, _PIXEL_SIZE)))
    return inputs


def image_input(
    model: TrainedModel,
    extractor: OnnxExtractor,
    image: Tensor,
    rois: np.ndarray,
    pixel_size: float,
    merged: bool,
    boxes: bool,
) -> CheckInput:
    """Return the input for an image, uint8 [1, H, W, 3], letterboxed."""
    tensor = extractor.preprocess(image)
    context = _context(model, tensor, pixel_size)
    arrays = {extractor.input_name: tensor.numpy()}
    if boxes:
        features, (detections,) = extractor.run_with_detections(tensor)
        return CheckInput(arrays, features, None, context, detections)
    features = tuple(layer.to("cpu", torch.float32) for layer in extractor.tensors(tensor))  # not projected
    if not merged:
        arrays = {name: feature.numpy() for name, feature in zip(model.layers, features, strict=True)}
    return CheckInput(arrays, features, rois, context)


def _context(model: TrainedModel, image: Tensor, pixel_size: float) -> dict[str, Tensor]:
    values = {IMAGE: image, PIXEL_SIZE: torch.tensor([pixel_size])}
    return {name: values[name] for name in model.decoder.context_inputs}
