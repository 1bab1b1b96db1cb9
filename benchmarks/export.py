"""Latency of exported files compared with PyTorch: `python -m benchmarks.export`.

From YOLOX-Nano's input (416x416) and N ROIs to masks [N, 416, 416]: the extractor in ONNX Runtime and the
decoder in PyTorch, the merged file, the decoder's file alone, in float32 and with the decoder in float16, on
the same threads. The floor is the extractor alone, plus the decoder's operations at the machine's best
product or convolution.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoder_step import configured
from benchmarks.peak import peak_flops
from benchmarks.real import folder, yolox
from benchmarks.report import show
from benchmarks.timing import race
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.onnx_export.graph import (
    FeatureInput,
    MaskGraph,
    export_decoder,
    save_onnx,
)
from roiseg.onnx_export.merge import merge_with_extractor
from roiseg.onnx_export.verify import random_rois

MODELS = ("roialign", "maskrcnn", "condinst")
COUNTS = (1, 5, 20)
EXTRACTOR, EAGER = "extractor alone", "extractor + PyTorch"

Way = Callable[[NDArray[np.float32]], object]  # of N ROIs


def person_rois(count: int) -> NDArray[np.float32]:
    """Return normalized boxes [count, 4] with the shape of a person, half the input high."""
    corner = random_rois(count)[:, :2] * np.array([0.8, 0.5])
    return np.concatenate([corner, corner + np.array([0.2, 0.5])], axis=1).astype(np.float32)


def export(decoder: Decoder, extractor: OnnxExtractor, path: Path, merged: bool, half: bool) -> None:
    """Write a decoder's file."""
    inputs = [FeatureInput(*pair) for pair in zip(extractor.layers, extractor.shapes, strict=True)]
    model = export_decoder(decoder, inputs, extractor.preprocess.image_size, half=half)
    if merged:
        model = merge_with_extractor(model, str(folder() / "yolox_nano.onnx"), extractor.layers)
    save_onnx(model, path, {})


def opened(path: Path) -> ort.InferenceSession:
    """Open a file on the CPU, with as many threads as torch has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ways(decoder: Decoder, extractor: OnnxExtractor, target: Path) -> dict[str, Way]:
    """Return each way from input and ROIs to masks; writes files to the folder `target`."""
    size = extractor.preprocess.image_size
    picture = 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    features = extractor.run(picture)
    arrays = {name: tensor.numpy() for name, tensor in zip(extractor.layers, features, strict=True)}
    graph = MaskGraph(decoder.eval())

    def eager(rois: NDArray[np.float32]) -> Tensor:
        with torch.inference_mode():
            return graph(extractor.run(picture), torch.from_numpy(rois))[0]

    def runs(path: Path, given: Mapping[str, NDArray[np.float32]]) -> Way:
        session = opened(path)
        return lambda rois: session.run(["masks"], {**given, "rois": rois})[0]

    found: dict[str, Way] = {EXTRACTOR: lambda rois: extractor.run(picture), EAGER: eager}
    for kind, half in (("float32", False), ("float16", True)):
        for merged in (True, False):
            path = target / f"{kind}_{merged}.onnx"
            export(decoder, extractor, path, merged, half)
            given = {extractor.input_name: picture.numpy()} if merged else arrays
            found[f"{'merged' if merged else 'decoder'} {kind}"] = runs(path, given)
    return found


def flops(decoder: Decoder, extractor: OnnxExtractor, rois: NDArray[np.float32]) -> int:
    """Return the operations of the decoder on these ROIs, including paste."""
    graph = MaskGraph(decoder.eval())
    features = [torch.zeros(1, *shape) for shape in extractor.shapes]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph(features, torch.from_numpy(rois))
    return counter.get_total_flops()


def main() -> None:
    """Measure each model."""
    extractor = yolox(threads=torch.get_num_threads())
    peak = peak_flops("cpu", torch.float32)
    for model in MODELS:
        torch.manual_seed(0)
        decoder = configured(model, dict(zip(extractor.strides, extractor.channels, strict=True)))
        with tempfile.TemporaryDirectory() as target:
            found = ways(decoder, extractor, Path(target))
            columns = {count: _race(found, person_rois(count)) for count in COUNTS}
        rows = [
            [name, *(f"{columns[n][name]:.2f} ({columns[n][EAGER] / columns[n][name]:.2f}x)" for n in COUNTS)]
            for name in found
        ]
        floor = (
            f"{columns[n][EXTRACTOR] + 1e3 * flops(decoder, extractor, person_rois(n)) / peak:.2f}"
            for n in COUNTS
        )
        rows.append(["floor", *floor])
        note = f"in brackets: times faster than {EAGER}; best product {peak / 1e9:.0f} GFLOP/s"
        show(f"{model}: ms from input to N masks", ["", *(f"N = {n}" for n in COUNTS)], rows, note)


def _race(found: Mapping[str, Way], rois: NDArray[np.float32]) -> dict[str, float]:
    """Return the milliseconds of each way."""

    def on_rois(way: Way) -> Callable[[], object]:
        return lambda: way(rois)

    timings = race({name: on_rois(way) for name, way in found.items()}, rounds=9)
    return {name: 1e3 * timing.median for name, timing in timings.items()}


if __name__ == "__main__":
    main()
