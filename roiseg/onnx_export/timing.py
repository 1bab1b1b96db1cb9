"""Run an exported file on noise: check its outputs and measure its time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from roiseg.common.errors import UserError
from roiseg.inference.onnx_file import OnnxFile
from roiseg.onnx_export.boxes import BOXES, SCORES
from roiseg.onnx_export.graph import MASKS, PIXEL_SIZE, ROIS
from roiseg.onnx_export.verify import random_rois

_WARM_UP = 2


@dataclass(frozen=True)
class Timing:
    """The time for a number of ROIs."""

    rois: int  # given, or found by the file
    milliseconds: float  # median


def time_file(file: OnnxFile, count: int, runs: int) -> Timing:
    """Run a file on noise with `count` ROIs (ignored by a file that finds the boxes).

    Args:
        file: opened.
        count: ROIs.
        runs: number of timed runs, after two warm-up runs; 0: run once, untimed.

    Raises:
        UserError: it does not run, or its outputs contradict its metadata.
    """
    inputs = {given.name: _noise(given, count) for given in file.session.get_inputs()}
    outputs = [BOXES, SCORES, MASKS] if file.finds_boxes else [MASKS]
    try:
        found = dict(zip(outputs, file.session.run(outputs, inputs), strict=True))
        for _ in range(_WARM_UP if runs else 0):
            file.session.run(outputs, inputs)
        times = [_timed(file.session, outputs, inputs) for _ in range(runs)]
    except Exception as error:  # the runtime raises bare exceptions of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} does not run on {count} ROIs ({reason}): export it again") from None
    masks = found[MASKS]
    number = len(found[BOXES]) if file.finds_boxes else count
    _expect(file, MASKS, masks, (number, *file.image_size), 1)
    if file.finds_boxes:
        _expect(file, BOXES, found[BOXES], (number, 4), max(file.image_size))
        _expect(file, SCORES, found[SCORES], (number,), 1)
    return Timing(number, float(np.median(times)) * 1e3 if times else 0.0)


def _noise(given: ort.NodeArg, count: int) -> np.ndarray:
    dtype = np.float16 if "float16" in given.type else np.float32
    if given.name == ROIS:
        return random_rois(count).astype(dtype)
    if given.name == PIXEL_SIZE:
        return np.ones(1, dtype)
    shape = [side if isinstance(side, int) else 1 for side in given.shape]
    return np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)


def _timed(session: ort.InferenceSession, outputs: list[str], inputs: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(outputs, inputs)
    return time.perf_counter() - start


def _expect(file: OnnxFile, name: str, found: np.ndarray, shape: tuple[int, ...], largest: float) -> None:
    """Check that an output has this shape and values from 0 to `largest`."""
    if found.shape != shape:
        raise UserError(
            f"{file.path} gives {name} of shape {list(found.shape)}, not {list(shape)}: export it again"
        )
    # fp16 rounds
    if found.size and not (found.min() >= -1e-3 and found.max() <= largest + 1e-3):  # NaN fails too
        raise UserError(
            f"{file.path} gives {name} from {found.min():.3g} to {found.max():.3g}, not 0 to {largest}: "
            "export it again"
        )
