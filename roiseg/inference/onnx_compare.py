"""Inputs to compare an exported file with its checkpoint on, random and real, and the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roiseg.data.batch import RoiSample, collate
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import TrainedModel
from roiseg.inference.onnx_check import (
    CheckInput,
    OnnxCheck,
    PictureInput,
    detected_difference,
    largest_difference,
    random_rois,
)
from roiseg.inference.onnx_graph import IMAGE, PIXEL_SIZE

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
    """Compare a file that takes a picture and ROIs."""
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
    """Compare a file that takes a picture alone and finds the boxes itself."""
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
