"""Check an exported file: validity, promised outputs, time, and difference from its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.batch import RoiSample
from roiseg.data.dataset import RoiDataset
from roiseg.data.targets import TargetSpec
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import Paths, TrainedModel, load_model
from roiseg.inference.decision import Decision
from roiseg.inference.onnx_file import OnnxFile
from roiseg.inference.sources.image_files import open_source
from roiseg.onnx_export.boxes import BOXES
from roiseg.onnx_export.certificate import Row, certify
from roiseg.onnx_export.export import allowed_difference
from roiseg.onnx_export.graph import PIXEL_SIZE, ROIS
from roiseg.onnx_export.outputs import LABELS, MASKS, ROI_MASKS
from roiseg.onnx_export.verify import OnnxCheck, compare, random_rois, with_image

_CHECK_IMAGES = 3


@dataclass(frozen=True)
class FileCheck:
    """What was measured on an exported file.

    Attributes:
        file: the file.
        trials: its speed for several numbers of ROIs.
        parity: its difference from its checkpoint with the file's decision; None if no checkpoint was given.
        other_decision: the checkpoint's decision if the file has another.
        runtimes: its masks in every runtime; empty if no images were given.
    """

    file: OnnxFile
    trials: list[Timing]
    parity: OnnxCheck | None
    runtimes: list[Row]
    other_decision: Decision | None = None


def check_file(
    path: str | Path,
    ckpt: Paths | None,
    onnx_path: str | None,
    rois: Sequence[int],
    runs: int,
    source: str | None = None,
) -> FileCheck:
    """Check an exported file.

    Args:
        path: the file.
        ckpt: the checkpoint it was exported from, or those of an ensemble; None: the two are not compared.
        onnx_path: the extractor's file; None: where it was in training.
        rois: numbers of ROIs that are timed.
        runs: runs per number of ROIs, of which the median is taken.
        source: images on which all runtimes are compared; None: they are not.

    Raises:
        UserError: roiseg did not export it, or it is damaged or does not give what it promises.
    """
    file = OnnxFile(path)
    images = None if source is None else open_source(source)
    if images is not None and ckpt is None:
        raise UserError("source needs ckpt=..., with which the masks of every runtime are compared")
    stored = None if ckpt is None else _model_of(file, ckpt)  # refused before the file is timed
    try:
        with utf8_path(file.path) as readable:
            onnx.checker.check_model(readable, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} is not a valid ONNX file ({reason}): export it again") from None
    counts = [0] if file.finds_boxes else [0, *rois]
    trials = [
        time_file(file, count, runs if count or file.finds_boxes else 0)
        for count in track(counts, "running the file")
    ]
    if stored is None:
        return FileCheck(file, trials, None, [])
    model = replace(stored, decision=file.decision)
    extractor = open_extractor(model, onnx_path, required=file.merged or images is not None)
    samples = [] if extractor is None else validation_samples(model, extractor)
    tolerance = allowed_difference(onnx.load(str(file.path), "protobuf"))
    parity = compare(
        file.path, model, tolerance, extractor, samples, file.merged, file.finds_boxes, file.dilate,
        file.free_size,
    )  # fmt: skip
    rows = [] if images is None or extractor is None else certify(file, model, extractor, images)
    other = None if stored.decision == file.decision else stored.decision
    return FileCheck(file, trials, parity, rows, other)


def _model_of(file: OnnxFile, ckpt: Paths) -> TrainedModel:
    """Open the checkpoint of a file.

    Raises:
        UserError: the file was exported from another model.
    """
    model = load_model(ckpt)
    theirs = (list(model.layers), model.image_size, model.extractor_sha256)
    if theirs != (file.layers, file.image_size, file.metadata.get("extractor_sha256")):
        raise UserError(
            f"{file.path} was exported from {file.metadata.get('checkpoint')}, which reads other features "
            f"than {ckpt}: give that checkpoint"
        )
    return model if file.postprocess is None else model.with_postprocess(file.postprocess)


def open_extractor(model: TrainedModel, onnx_path: str | None, required: bool) -> OnnxExtractor | None:
    """Open the model's extractor; None if its file is gone and it is neither asked for nor needed."""
    try:
        return model.extractor(onnx_path)
    except UserError:
        if required or onnx_path is not None:
            raise
        return None


def validation_samples(model: TrainedModel, extractor: OnnxExtractor) -> Sequence[RoiSample]:
    """Read some of the run's validation images; empty if they are gone."""
    data = model.config.get("data") or {}
    if not {"val_annotations", "val_images", "category_id", "min_roi_size"} <= data.keys():
        return []
    spec = TargetSpec(
        model.decoder.frame, model.decoder.output_size, model.decoder.num_classes, model.image_size
    )
    try:
        annotations = load_annotations(
            data["val_annotations"], data["category_id"], crowd=data.get("crowd", "region")
        )
        views = Views(extractor.preprocess.letterbox, Augment())
        dataset = RoiDataset(annotations, data["val_images"], views, spec, data["min_roi_size"])
        return [dataset[item] for item in range(min(_CHECK_IMAGES, len(dataset)))]
    except UserError:
        return []


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
    inputs = {given.name: _noise(given, count, file.image_size) for given in file.session.get_inputs()}
    outputs = [output.name for output in file.session.get_outputs()]
    try:
        found = dict(zip(outputs, file.session.run(outputs, inputs), strict=True))
        for _ in range(_WARM_UP if runs else 0):
            file.session.run(outputs, inputs)
        times = [_timed(file.session, outputs, inputs) for _ in range(runs)]
    except Exception as error:  # the runtime raises bare exceptions of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} does not run on {count} ROIs ({reason}): export it again") from None
    number = len(found[BOXES]) if file.finds_boxes else count
    labels = (1, *file.image_size) if file.batch else file.image_size
    shapes = {MASKS: (number, *file.image_size), LABELS: labels, BOXES: (number, 4)}
    largest = {LABELS: number, BOXES: max(file.image_size)}
    for name, values in found.items():
        rest = values.shape[1:] if name == ROI_MASKS else ()
        _expect(file, name, values, shapes.get(name, (number, *rest)), largest.get(name, 1))
    return Timing(number, float(np.median(times)) * 1e3 if times else 0.0)


def _noise(given: ort.NodeArg, count: int, image_size: tuple[int, int]) -> np.ndarray:
    """Return values of an input; of "height/8" and the like, if it is free, one for the size in training."""
    dtype = np.float16 if "float16" in given.type else np.float32
    if given.name == ROIS:
        rois = random_rois(count)
        return (with_image(rois) if given.shape[1] == 5 else rois).astype(dtype)
    if given.name == PIXEL_SIZE:
        return np.ones(1, dtype)
    sides = dict(zip(("height", "width"), image_size, strict=True))
    named = [str(side).partition("/") for side in given.shape]
    shape = [
        side if isinstance(side, int) else sides.get(name, 1) // int(stride or 1)
        for side, (name, _, stride) in zip(given.shape, named, strict=True)
    ]
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
