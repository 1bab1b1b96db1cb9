"""Is an exported file equal to the decoder it came from?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.decoders.base import Decoder
from roiseg.extractor.detector.base import Detections
from roiseg.inference.onnx_graph import MaskGraph

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
_BOX_TOLERANCE = 100  # input pixels for each 1 of a probability


@dataclass(frozen=True)
class OnnxCheck:
    """Largest absolute difference of ONNX Runtime from PyTorch: of a mask's probability, but for `boxes`."""

    tolerance: float
    random: float  # on random features and ROIs
    real: float | None = None  # on features of real pictures with their ROIs; None if there were none
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
    """One picture's worth of input."""

    onnx_inputs: dict[str, np.ndarray]  # inputs of the file: features or picture
    features: Sequence[Tensor]  # what the decoder gets for them, [1, C_l, h_l, w_l]
    rois: np.ndarray  # float32 [N, 4] normalised
    context: dict[str, Tensor] = field(default_factory=dict)  # what else the decoder is told


@dataclass(frozen=True)
class PictureInput:
    """One picture of which the file finds the boxes itself."""

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
