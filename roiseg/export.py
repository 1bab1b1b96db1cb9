"""`python -m roiseg.export`: a checkpoint as a verified ONNX file, or `check=FILE` to check such a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt
from rich.table import Table

from roiseg.common.console import console, print_values
from roiseg.common.errors import UserError
from roiseg.common.outputs import check_output
from roiseg.config.build import given_decision, to_plain
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import Decision
from roiseg.onnx_export.check import FileCheck, check_file, open_extractor, validation_samples
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.verify import OnnxCheck


class Options(TypedDict):
    """Keys of conf/export.yaml."""

    decision: Decision | None
    postprocess: Postprocessor | None
    ckpt: str | list[str] | None
    output: str | None
    merged: bool
    boxes: bool
    half: bool
    simplify: bool
    outputs: list[str]
    dilate: NonNegativeInt
    batch: bool
    free_size: bool
    opset: int
    onnx_path: str | None
    check: str | None
    rois: list[NonNegativeInt]
    runs: PositiveInt
    source: str | None


def export(cfg: DictConfig) -> tuple[Path, OnnxCheck]:
    """Export from a composed configuration; returns the file and its difference from PyTorch."""
    if cfg.ckpt is None:
        raise UserError("configuration `ckpt` must be given: add ckpt=... (or check=FILE to check a file)")
    postprocess = to_plain(cfg)["postprocess"]
    options = ExportOptions(
        cfg.merged, cfg.half, cfg.opset, cfg.boxes, cfg.simplify, tuple(cfg.outputs), cfg.dilate, cfg.batch,
        cfg.free_size,
    )  # fmt: skip
    model = load_model(cfg.ckpt)
    if (decision := given_decision(cfg)) is not None:
        model = replace(model, decision=decision)
    if postprocess is not None:
        model = model.with_postprocess(postprocess)
    if model.others and cfg.output is None:
        raise UserError("output must be given for an ensemble: add output=FILE.onnx")
    path = check_output(cfg.output or model.path.with_suffix(".onnx"))
    extractor = open_extractor(model, cfg.onnx_path, required=cfg.merged)
    samples = [] if extractor is None else validation_samples(model, extractor)
    return path, export_model(model, path, options, extractor, samples)


def parity_rows(table: Table, check: OnnxCheck) -> None:
    """Add the comparison with PyTorch to a table."""
    missing = "not compared: extractor or validation images are missing"
    table.add_row("random input, largest difference", f"{check.random:.1e}")
    table.add_row("real input, largest difference", missing if check.real is None else f"{check.real:.1e}")
    if check.boxes is not None:
        table.add_row("boxes, largest difference", f"{check.boxes:.1e} pixels ({check.detections} compared)")
    table.add_row("allowed", f"{check.tolerance:.0e}")


def show_check(report: FileCheck) -> None:
    """Print inputs, outputs, metadata, speed and parity of a checked file."""
    file = report.file
    tensors = Table("", "name", "type", "shape", "what", title="ONNX file")
    for kind, values in (("input", file.session.get_inputs()), ("output", file.session.get_outputs())):
        for value in values:
            shape = "[" + ", ".join(map(str, value.shape)) + "]"
            layer = f"layer {value.name} of the detector"
            what = layer if value.name in file.layers else "the detector's input tensor"
            tensors.add_row(kind, value.name, value.type[7:-1], shape, file.metadata.get(value.name, what))
    metadata = Table("metadata", "value")
    for key in sorted(file.metadata):
        metadata.add_row(key, file.metadata[key])
    console.print(tensors, metadata, _measurements(report))
    if report.runtimes:
        console.print(_runtimes(report))
    print_values({"file": file.path})


def _measurements(report: FileCheck) -> Table:
    table = Table("check", "found")
    provider = report.file.session.get_providers()[0]
    for trial in report.trials:
        if report.file.finds_boxes:
            found = f"{trial.milliseconds:.1f} ms, {trial.rois} boxes in noise"
            table.add_row(f"one image, median ({provider})", found)
        elif trial.rois:
            table.add_row(f"{trial.rois} ROIs, median ({provider})", f"{trial.milliseconds:.1f} ms")
        else:
            table.add_row("no ROI", "no mask")
    if report.parity is None:
        table.add_row("compared with its checkpoint", "no: give ckpt=...")
    else:
        parity_rows(table, report.parity)
    if report.other_decision is not None:
        table.add_row("decision of the file", str(report.file.decision))
        table.add_row("decision of the checkpoint", str(report.other_decision))
    return table


def _runtimes(report: FileCheck) -> Table:
    columns = "runtime", "precision", "difference", "mean IoU", "worst IoU", "ms per image", "MB"
    table = Table(*columns, title="masks in each runtime, compared with PyTorch")
    for row in report.runtimes:
        figures = (
            f"{row.difference:.1e}", f"{row.mean_iou:.4f}", f"{row.worst_iou:.4f}", f"{row.milliseconds:.0f}",
            f"{row.megabytes:.1f}",
        )  # fmt: skip
        table.add_row(row.runtime, row.precision, *([row.failure] if row.failure else figures))
    return table


def check(cfg: DictConfig) -> None:
    """Check a file, print what was found, and fail if it differs from its checkpoint."""
    report = check_file(cfg.check, cfg.ckpt, cfg.onnx_path, cfg.rois, cfg.runs, cfg.source)
    show_check(report)
    if wrong := [row.runtime for row in report.runtimes if not row.passed]:
        raise UserError(f"{report.file.path} gives other masks in {', '.join(wrong)}: do not use it there")
    if report.parity is None:
        console.print("The file is valid.")
    elif report.parity.passed:
        console.print("The file agrees with its checkpoint.")
    else:
        raise UserError(
            f"{report.file.path} differs from {cfg.ckpt}: export it again, or give its own checkpoints"
        )


@command("export")
def main(cfg: DictConfig) -> None:
    """Export or check, and print the comparison."""
    validated(cfg, Options)
    if cfg.check is not None:
        return check(cfg)
    path, parity = export(cfg)
    table = Table(title="ONNX export", show_header=False)
    parity_rows(table, parity)
    console.print(table)
    print_values({f"file, {path.stat().st_size / 1e6:.1f} MB": path})


if __name__ == "__main__":
    main()
