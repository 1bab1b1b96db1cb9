"""Check the configured files: they exist, what the annotations hold, and results can be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError
from roiseg.common.files import DataSource, normal_name, require_dir, require_file
from roiseg.common.package_files import ShippedFile
from roiseg.data.analysis import CROWDED, analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.annotations import Annotations
from roiseg.diagnosis.finding import Diagnosis, Finding

_LEAST_FREE = 2e9  # bytes of checkpoints and images that a short run leaves


def input_files(cfg: DictConfig) -> Iterator[Finding]:
    """Check the detector, the annotation files and the image folders."""
    yield _file("detector", cfg.extractor, "onnx_path", "extractor")
    for split in ("train", "val", *(["extra"] if cfg.data.get("extra_annotations") else [])):
        yield _file("annotations", cfg.data, f"{split}_annotations", "data")
        yield _file("images", cfg.data, f"{split}_images", "data")


def _file(about: str, node: DictConfig, key: str, group: str) -> Finding:
    path, hint = node[key], f"set {group}.{key}"
    try:
        found = require_dir(path, about, hint) if about == "images" else require_file(path, about, hint)
    except UserError as error:
        source: DataSource | None = instantiate(node.source, _convert_="all") if node.get("source") else None
        if path and source is not None and source.makes(path):
            return Finding(about, "note", f"{path} is not there yet: {source.made}", unfolded=True)
        return Finding(about, "error", str(error))
    return Finding(about, "ok", str(found), unfolded=True)


def use_shipped_detector(cfg: DictConfig) -> None:
    """Read a detector that ships with roiseg from the package while it is not copied yet."""
    source = instantiate(cfg.extractor.source) if cfg.extractor.get("source") else None
    path = cfg.extractor.onnx_path
    if isinstance(source, ShippedFile) and source.makes(path) and not Path(path).is_file():
        cfg.extractor.onnx_path = str(source.original)


def output_folders(cfg: DictConfig) -> Iterator[Finding]:
    """Check that the result folders can be written and have room."""
    for key in ("output_dir", "checkpoint_dir"):
        folder = _deepest(Path(cfg.paths[key]))
        if not os.access(folder, os.W_OK):
            todo = f"give another paths.{key}"
            yield Finding("results", "error", f"{folder} cannot be written (paths.{key})", todo)
            continue
        free = shutil.disk_usage(folder).free
        text = f"{cfg.paths[key]}: {free / 1e9:.1f} GB free"
        if free < _LEAST_FREE:
            todo = f"free some space, or give another paths.{key}"
            yield Finding("results", "warning", text, todo, unfolded=True)
        else:
            yield Finding("results", "ok", text, unfolded=True)


def _deepest(path: Path) -> Path:
    """Return the part of a path that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


_GRID = 28  # cells a side for the crowded ROIs; enough for a share
_FEW_ROIS = 100


def data_sets(cfg: DictConfig, report: Diagnosis) -> bool:
    """Count images, ROIs and crowded ROIs of both files; returns whether both could be read."""
    found: dict[str, Annotations] = {}
    for split in ("train", "val"):
        path = Path(cfg.data[f"{split}_annotations"])
        if not path.is_file():
            continue  # said where files are looked for
        with report.guard(f"data, {split}"):
            found[split] = load_annotations(
                path, cfg.data.category_id, cfg.data.index_dir, cfg.data.crowd, instantiate(cfg.data.reader)
            )
            report.add(*_counts(split, found[split], cfg.data.min_roi_size))
    if len(found) == 2 and not cfg.data.folds:
        report.add(*_overlap(cfg, found))
    return len(found) == 2


def _counts(split: str, annotations: Annotations, min_roi_size: float) -> Iterator[Finding]:
    analysis = analyze(annotations, min_roi_size, _GRID)
    totals, size = analysis["totals"], analysis["roi_size"]
    crowded = round(analysis["overlap"]["crowded"] * totals["rois"])
    text = (
        f"{totals['images']:,} images, {totals['images_with_rois']:,} with ROIs; {totals['rois']:,} ROIs, "
        f"{crowded:,} crowded (others cover more than {CROWDED:.0%}); median ROI "
        f"{size['width']['p50']:.0f} x {size['height']['p50']:.0f} pixels; {totals['rois_too_small']:,} "
        f"instances below {min_roi_size} pixels; {totals['crowds']:,} crowd regions"
    )
    yield Finding(f"data, {split}", "ok", text)
    for warning in annotations.warnings:
        yield Finding(f"data, {split}", "warning", f"{annotations.path}: {warning}", unfolded=True)
    if split == "train" and totals["rois"] < _FEW_ROIS:
        text = f"only {totals['rois']:,} ROIs for training"
        todo = "data/augment=heavy data/augment/paste=people, and cross-validation (data/folds=five)"
        yield Finding(f"data, {split}", "note", text, todo)


def _overlap(cfg: DictConfig, found: dict[str, Annotations]) -> Iterator[Finding]:
    """Find validation images that are trained on."""
    paths = []
    for split, of_split in found.items():
        folder = Path(cfg.data[f"{split}_images"]).absolute()
        paths.append({folder / normal_name(name) for name in of_split.file_names.tolist()})
    if both := paths[0] & paths[1]:
        text = f"{len(both):,} images are in training and validation, such as {min(both)}"
        todo = "use other val_annotations: metrics on training images are meaningless"
        yield Finding("data", "warning", text, todo, unfolded=True)
