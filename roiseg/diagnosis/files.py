"""Check that the configured files exist and results can be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from roiseg.common.errors import UserError
from roiseg.common.files import DataSource, require_dir, require_file
from roiseg.diagnosis.finding import Finding

_LEAST_FREE = 2e9  # bytes of checkpoints and images that a short run leaves


def input_files(cfg: DictConfig) -> Iterator[Finding]:
    """Check the detector, both annotation files and both image folders."""
    yield _file("detector", cfg.extractor, "onnx_path", "extractor")
    for split in ("train", "val"):
        yield _file("annotations", cfg.data, f"{split}_annotations", "data")
        yield _file("images", cfg.data, f"{split}_images", "data")


def _file(about: str, node: DictConfig, key: str, group: str) -> Finding:
    path, hint = node[key], f"set {group}.{key}"
    try:
        found = require_dir(path, about, hint) if about == "images" else require_file(path, about, hint)
    except UserError as error:
        source: DataSource | None = instantiate(node.source, _convert_="all") if node.get("source") else None
        if path and source is not None and source.makes(path):
            return Finding(
                about, "note", f"{path} is not there yet", "none: the first training run creates it"
            )
        return Finding(about, "error", str(error))
    return Finding(about, "ok", str(found))


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
            yield Finding("results", "warning", text, f"free some space, or give another paths.{key}")
        else:
            yield Finding("results", "ok", text)


def _deepest(path: Path) -> Path:
    """Return the part of a path that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
