"""`python -m roiseg.export ckpt=...`: a checkpoint as a checked ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from omegaconf import DictConfig
from rich.table import Table

from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.common.outputs import check_output
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.augment import Augment, Views
from roiseg.data.batch import RoiSample
from roiseg.data.dataset import RoiDataset
from roiseg.data.targets import TargetSpec
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.inference.checkpoint import TrainedModel, load_model
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.verify import OnnxCheck

_CHECK_IMAGES = 3


class Options(TypedDict):
    """Keys of conf/export.yaml."""

    ckpt: str
    output: str | None
    merged: bool
    boxes: bool
    half: bool
    simplify: bool
    opset: int
    onnx_path: str | None


def export(cfg: DictConfig) -> tuple[Path, OnnxCheck]:
    """Export from a composed configuration; returns the file and how far it is from PyTorch."""
    postprocess = validated(cfg, Options)["postprocess"]
    options = ExportOptions(cfg.merged, cfg.half, cfg.opset, cfg.boxes, cfg.simplify)
    model = load_model(cfg.ckpt)
    if postprocess is not None:
        model = model.with_postprocess(postprocess)
    path = check_output(cfg.output or model.path.with_suffix(".onnx"))
    extractor = open_extractor(model, cfg.onnx_path, required=cfg.merged)
    samples = [] if extractor is None else validation_samples(model, extractor)
    return path, export_model(model, path, options, extractor, samples)


def open_extractor(model: TrainedModel, onnx_path: str | None, required: bool) -> OnnxExtractor | None:
    """The model's extractor; None where it is gone and neither asked for nor needed."""
    try:
        return model.extractor(onnx_path)
    except UserError:
        if required or onnx_path is not None:
            raise
        return None


def validation_samples(model: TrainedModel, extractor: OnnxExtractor) -> Sequence[RoiSample]:
    """Some of the run's validation images, where they still are."""
    data = model.config["data"]
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


@command("export")
def main(cfg: DictConfig) -> None:
    """Export, and say where the file is and what the comparison gave."""
    path, check = export(cfg)
    table = Table(title="ONNX export", show_header=False)
    table.add_row("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    table.add_row("random input, largest difference", f"{check.random:.1e}")
    missing = "not compared: extractor or validation images are gone"
    real = missing if check.real is None else f"{check.real:.1e}"
    table.add_row("real ROIs, largest difference", real)
    if check.boxes is not None:
        table.add_row("boxes, largest difference", f"{check.boxes:.1e} pixels ({check.detections} compared)")
    table.add_row("allowed", f"{check.tolerance:.0e}")
    console.print(table)


if __name__ == "__main__":
    main()
