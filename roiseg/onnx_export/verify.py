"""Is an exported file equal to the decoder it came from?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.data.batch import RoiSample, collate
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.extractor.postprocess.base import Detections
from roiseg.inference.checkpoint import TrainedModel
from roiseg.onnx_export.graph import IMAGE, PIXEL_SIZE, MaskGraph

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
_BOX_TOLERANCE = 100  # input pixels for each 1 of a probability


@dataclass(frozen=True)
class OnnxCheck:
    """Largest absolute difference of ONNX Runtime from PyTorch: of a mask's probability, but for `boxes`."""

    tolerance: float
    random: float  # on random features and ROIs
    real: float | None = None  # on features of real images with their ROIs; None if there were none
    boxes: float | None = None  # of the detector's own boxes, input pixels; None if the file finds none
    detections: int | None = None  # how many of them were compared

    @property
    def passed(self) -> bool:
        """Within tolerance on every input."""
        masks = max(self.random, self.real or 0.0) <= self.tolerance
        return masks and (self.boxes or 0.0) <= self.tolerance * _BOX_TOLERANCE

    def summary(self) -> dict[str, float | bool | None]:
        """For summary.json; without boxes where the file finds none."""
        known = asdict(self)
        if self.boxes is None:
            del known["boxes"], known["detections"]
        return {**known, "passed": self.passed}


@dataclass(frozen=True)
class CheckInput:
    """One image's worth of input."""

    onnx_inputs: dict[str, np.ndarray]  # inputs of the file: features or image
    features: Sequence[Tensor]  # what the decoder gets for them, [1, C_l, h_l, w_l]
    rois: np.ndarray  # float32 [N, 4] normalised
    context: dict[str, Tensor] = field(default_factory=dict)  # what else the decoder is told


@dataclass(frozen=True)
class PictureInput:
    """One image of which the file finds the boxes itself."""

    onnx_inputs: dict[str, np.ndarray]
    features: Sequence[Tensor]
    detections: Detections  # what the adapter finds
    context: dict[str, Tensor] = field(default_factory=dict)


def random_rois(count: int, seed: int = 0) -> np.ndarray:
    """Normalised boxes [count, 4] of all sizes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (count, 2, 2))
    return np.concatenate([corners.min(1), np.maximum(corners.max(1), corners.min(1) + 0.02)], 1).astype(
        np.float32
    )


def largest_difference(
    path: Path, decoder: Decoder, image_size: tuple[int, int], inputs: Sequence[CheckInput]
) -> float:
    """Run the file and the decoder on the same inputs.

    Args:
        path: the exported file.
        decoder: fp32 decoder it was exported from.
        image_size: (H, W) of the masks.
        inputs: at least one.
    """
    session = _session(path)
    graph = MaskGraph(decoder, image_size).eval()
    worst = 0.0
    for given in inputs:
        (masks,) = _run(session, ["masks"], given, rois=given.rois)
        worst = max(worst, _difference(path, "masks", masks, _masks(graph, given, given.rois)))
    return worst


def detected_difference(
    path: Path, decoder: Decoder, image_size: tuple[int, int], inputs: Sequence[PictureInput]
) -> tuple[float, float]:
    """The same for a file that finds the boxes itself.

    Returns:
        Largest difference of masks, given the file's boxes, and of scores; and of boxes, in input pixels.
    """
    session = _session(path)
    graph = MaskGraph(decoder, image_size).eval()
    height, width = image_size
    masks_worst = boxes_worst = 0.0
    for given in inputs:
        boxes, scores, masks = _run(session, ["boxes", "scores", "masks"], given)
        rois = boxes / np.array([width, height, width, height], np.float32)
        boxes_worst = max(boxes_worst, _difference(path, "boxes", boxes, given.detections.boxes))
        masks_worst = max(
            masks_worst,
            _difference(path, "scores", scores, given.detections.scores),
            _difference(path, "masks", masks, _masks(graph, given, rois)),
        )
    return masks_worst, boxes_worst


def _run(
    session: ort.InferenceSession, outputs: list[str], given: CheckInput | PictureInput, **more: np.ndarray
) -> list[np.ndarray]:
    arrays = {name: value.numpy() for name, value in given.context.items()}
    arrays |= {**given.onnx_inputs, **more}
    types = {i.name: np.float16 if "float16" in i.type else np.float32 for i in session.get_inputs()}
    return session.run(outputs, {name: arrays[name].astype(dtype) for name, dtype in types.items()})


def _masks(graph: MaskGraph, given: CheckInput | PictureInput, rois: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return graph(list(given.features), torch.from_numpy(rois), **given.context).numpy()


def _session(path: Path) -> ort.InferenceSession:
    with utf8_path(path) as name:
        return ort.InferenceSession(name, providers=["CPUExecutionProvider"])


def _difference(path: Path, what: str, found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise UserError(f"{path} gives {what} of shape {found.shape}, PyTorch {expected.shape}: they differ")
    if not found.size:
        return 0.0
    difference = float(np.abs(found - expected).max())
    return math.inf if math.isnan(difference) else difference


_ROI_COUNTS = (0, 1, 3)
_PIXEL_SIZE = 1.7  # any, of random input


def compare_decoder(
    path: Path,
    model: TrainedModel,
    tolerance: float,
    extractor: OnnxExtractor | None,
    samples: Sequence[RoiSample],
) -> OnnxCheck:
    """Compare a file that holds the decoder alone; the extractor is needed for real samples only."""
    decoder, size = model.decoder.float().cpu(), model.image_size
    random = largest_difference(path, decoder, size, list(_random_features(model)))
    if not samples or extractor is None:
        return OnnxCheck(tolerance, random)
    given = []
    for sample in samples:
        image = extractor.preprocess(collate([sample]).images)
        features = extractor.run(image)
        arrays = {name: feature.numpy() for name, feature in zip(model.layers, features, strict=True)}
        context = _context(model, image, sample.pixel_size)
        given.append(CheckInput(arrays, features, _normalized(sample, size), context))
    return OnnxCheck(tolerance, random, largest_difference(path, decoder, size, given))


def compare_merged(
    path: Path, model: TrainedModel, tolerance: float, extractor: OnnxExtractor, samples: Sequence[RoiSample]
) -> OnnxCheck:
    """Compare a file that takes an image and ROIs."""
    decoder, size = model.decoder.float().cpu(), model.image_size

    def given(picture: np.ndarray, rois: np.ndarray, pixel_size: float) -> CheckInput:
        image = extractor.preprocess(torch.from_numpy(picture)[None])
        arrays = {extractor.input_name: image.numpy()}
        return CheckInput(arrays, extractor.run(image), rois, _context(model, image, pixel_size))

    noise = [given(picture, random_rois(n), _PIXEL_SIZE) for n, picture in _random_pictures(size)]
    real = [given(sample.image, _normalized(sample, size), sample.pixel_size) for sample in samples]
    random = largest_difference(path, decoder, size, noise)
    return OnnxCheck(tolerance, random, largest_difference(path, decoder, size, real) if real else None)


def compare_with_boxes(
    path: Path, model: TrainedModel, tolerance: float, extractor: OnnxExtractor, samples: Sequence[RoiSample]
) -> OnnxCheck:
    """Compare a file that takes an image alone and finds the boxes itself."""
    decoder, size = model.decoder.float().cpu(), model.image_size

    def given(picture: np.ndarray, pixel_size: float) -> PictureInput:
        image = extractor.preprocess(torch.from_numpy(picture)[None])
        features, (detections,) = extractor.run_with_detections(image)
        arrays = {extractor.input_name: image.numpy()}
        return PictureInput(arrays, features, detections, _context(model, image, pixel_size))

    noise = [given(picture, _PIXEL_SIZE) for _, picture in _random_pictures(size)]
    real = [given(sample.image, sample.pixel_size) for sample in samples]
    found = [detected_difference(path, decoder, size, group) for group in (noise, real) if group]
    masks = [difference for difference, _ in found]
    return OnnxCheck(
        tolerance, masks[0], masks[1] if real else None,
        boxes=max(difference for _, difference in found),
        detections=sum(len(one.detections) for one in (*noise, *real)),
    )  # fmt: skip


def _random_features(model: TrainedModel) -> Iterator[CheckInput]:
    generator = torch.Generator().manual_seed(0)
    for count in _ROI_COUNTS:
        features = [torch.randn((1, *shape), generator=generator) for shape in model.shapes]
        image = torch.rand(1, 3, *model.image_size, generator=generator)
        arrays = {name: feature.numpy() for name, feature in zip(model.layers, features, strict=True)}
        yield CheckInput(arrays, features, random_rois(count), _context(model, image, _PIXEL_SIZE))


def _random_pictures(image_size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """(Number of ROIs, noise [H, W, 3])."""
    rng = np.random.default_rng(0)
    for count in _ROI_COUNTS:
        yield count, rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)


def _normalized(sample: RoiSample, image_size: tuple[int, int]) -> np.ndarray:
    height, width = image_size
    return sample.rois / np.array([width, height, width, height], np.float32)


def _context(model: TrainedModel, image: Tensor, pixel_size: float) -> dict[str, Tensor]:
    values = {IMAGE: image, PIXEL_SIZE: torch.tensor([pixel_size])}
    return {name: values[name] for name in model.decoder.context_inputs}
