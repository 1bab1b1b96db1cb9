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
from roiseg.decoders.base import Decoder
from roiseg.inference.onnx_graph import MaskGraph

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True)
class OnnxCheck:
    """Largest absolute difference of a mask probability between ONNX Runtime and PyTorch."""

    tolerance: float
    random: float  # on random features and ROIs
    real: float | None = None  # on features of real pictures with their ROIs; None if there were none

    @property
    def passed(self) -> bool:
        """Within tolerance on every input."""
        return max(self.random, self.real or 0.0) <= self.tolerance

    def summary(self) -> dict[str, float | bool | None]:
        """For summary.json."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class CheckInput:
    """One picture's worth of input."""

    onnx_inputs: dict[str, np.ndarray]  # inputs of the file: features or picture
    features: Sequence[Tensor]  # what the decoder gets for them, [1, C_l, H_l, W_l]
    rois: np.ndarray  # float32 [N, 4] normalised
    context: dict[str, Tensor] = field(default_factory=dict)  # what else the decoder is told


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
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    graph = MaskGraph(decoder, image_size).eval()
    types = {
        given.name: np.float16 if "float16" in given.type else np.float32 for given in session.get_inputs()
    }
    worst = 0.0
    for given in inputs:
        arrays = {name: value.numpy() for name, value in given.context.items()}
        arrays |= {**given.onnx_inputs, "rois": given.rois}
        wanted = {name: arrays[name].astype(dtype) for name, dtype in types.items()}
        (masks,) = session.run(["masks"], wanted)
        with torch.no_grad():
            rois = torch.from_numpy(given.rois)
            expected = graph(list(given.features), rois, **given.context).numpy()
        if masks.shape != expected.shape:
            raise UserError(
                f"{path} gives masks of shape {masks.shape}, PyTorch {expected.shape}: export failed"
            )
        if masks.size:
            difference = float(np.abs(masks - expected).max())
            worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst
