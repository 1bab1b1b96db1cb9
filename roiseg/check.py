"""`python -m roiseg.check onnx=...`: does an exported file do what it promises, and what its model does?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import onnx
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt
from rich.table import Table

from roiseg.common.console import console, track
from roiseg.common.errors import UserError
from roiseg.common.files import utf8_path
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.export import open_extractor, validation_samples
from roiseg.inference.checkpoint import load_model
from roiseg.inference.onnx_file import OnnxFile
from roiseg.onnx_export.export import allowed_difference
from roiseg.onnx_export.timing import Timing, time_file
from roiseg.onnx_export.verify import OnnxCheck, compare


class Options(TypedDict):
    """Keys of conf/check.yaml."""

    onnx: str
    ckpt: str | None
    onnx_path: str | None
    rois: list[NonNegativeInt]
    runs: PositiveInt


@dataclass(frozen=True)
class Report:
    """What was found out about a file."""

    file: OnnxFile
    trials: list[Timing]
    parity: OnnxCheck | None  # None: no checkpoint was given


def check(cfg: DictConfig) -> Report:
    """Check a file from a composed configuration.

    Raises:
        UserError: it is no file of roiseg's, damaged, or does not give what it promises.
    """
    validated(cfg, Options)
    file = OnnxFile(cfg.onnx)
    try:
        with utf8_path(file.path) as path:
            onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} is no valid ONNX file ({reason}): export it anew") from None
    counts = [0] if file.finds_boxes else [0, *cfg.rois]
    trials = [
        time_file(file, count, cfg.runs if count or file.finds_boxes else 0)
        for count in track(counts, "running the file")
    ]
    parity = None if cfg.ckpt is None else compare_with_checkpoint(file, cfg.ckpt, cfg.onnx_path)
    return Report(file, trials, parity)


def compare_with_checkpoint(file: OnnxFile, ckpt: str, onnx_path: str | None) -> OnnxCheck:
    """How far the file is from its checkpoint in PyTorch.

    Raises:
        UserError: it was exported from another model, or the extractor it holds is gone.
    """
    model = load_model(ckpt)
    theirs = (list(model.layers), model.image_size, model.extractor_sha256)
    if theirs != (file.layers, file.image_size, file.metadata.get("extractor_sha256")):
        raise UserError(
            f"{file.path} was exported from {file.metadata.get('checkpoint')}, which reads other features "
            f"than {ckpt}: give that checkpoint"
        )
    if (postprocess := file.postprocess) is not None:
        model = model.with_postprocess(postprocess)
    extractor = open_extractor(model, onnx_path, required=file.merged)
    samples = [] if extractor is None else validation_samples(model, extractor)
    tolerance = allowed_difference(onnx.load(str(file.path)))
    return compare(file.path, model, tolerance, extractor, samples, file.merged, file.finds_boxes)


def show(report: Report) -> None:
    """Print everything as tables."""
    file = report.file
    tensors = Table("", "name", "type", "shape", "what", title=f"ONNX file {file.path}")
    for kind, values in (("input", file.session.get_inputs()), ("output", file.session.get_outputs())):
        for value in values:
            shape = "[" + ", ".join(map(str, value.shape)) + "]"
            what = file.metadata.get(value.name, _what(file, value.name))
            tensors.add_row(kind, value.name, value.type[7:-1], shape, what)
    console.print(tensors)
    metadata = Table("metadata", "value")
    for key in sorted(file.metadata):
        metadata.add_row(key, file.metadata[key])
    console.print(metadata)
    console.print(_figures(report))


def _what(file: OnnxFile, name: str) -> str:
    return f"layer {name} of the detector" if name in file.layers else "the detector's input tensor"


def _figures(report: Report) -> Table:
    table = Table("check", "found")
    provider = report.file.session.get_providers()[0]
    for trial in report.trials:
        if report.file.finds_boxes:
            table.add_row(
                f"one image, median ({provider})",
                f"{trial.milliseconds:.1f} ms, {trial.rois} boxes in noise",
            )
        elif trial.rois:
            table.add_row(f"{trial.rois} ROIs, median ({provider})", f"{trial.milliseconds:.1f} ms")
        else:
            table.add_row("no ROI", "no mask")
    parity = report.parity
    if parity is None:
        table.add_row("compared with its checkpoint", "no: give ckpt=...")
        return table
    real = (
        "not compared: extractor or validation images are gone"
        if parity.real is None
        else f"{parity.real:.1e}"
    )
    table.add_row("random input, largest difference", f"{parity.random:.1e}")
    table.add_row("real input, largest difference", real)
    if parity.boxes is not None:
        table.add_row(
            "boxes, largest difference", f"{parity.boxes:.1e} pixels ({parity.detections} compared)"
        )
    table.add_row("allowed", f"{parity.tolerance:.0e}")
    return table


@command("check")
def main(cfg: DictConfig) -> None:
    """Check, print, and fail where the file is not what its checkpoint is."""
    report = check(cfg)
    show(report)
    if report.parity is not None and not report.parity.passed:
        raise UserError(
            f"{report.file.path} differs from {cfg.ckpt}: export it anew, or give its own checkpoint"
        )
    console.print("The file is sound." if report.parity is None else "The file agrees with its checkpoint.")


if __name__ == "__main__":
    main()
