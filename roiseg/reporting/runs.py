"""Finished runs: configuration, summary, and the metrics of each test ROI."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter
from typing_extensions import NotRequired, TypedDict
from yaml import YAMLError

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import read_json, require_dir, require_file
from roiseg.common.types import STRICT, check_record
from roiseg.data.analysis import CROWDED

_BOX = ("x1", "y1", "x2", "y2")
_SHARES = ("non_target_share", "iou", "boundary_iou")
_COLUMNS = ("image_id", "annotation_id", *_BOX, "area", *_SHARES)


@dataclass(frozen=True)
class Rois:
    """The test ROIs of a run, sorted by image and annotation."""

    images: NDArray[np.str_]
    annotations: NDArray[np.str_]
    boxes: NDArray[np.float64]  # [n, 4] x1, y1, x2, y2 in original pixels
    area: NDArray[np.float64]  # [n] area of the annotated mask in original pixels
    non_target_share: NDArray[np.float64]  # [n] share of the ROI covered by other annotated persons
    iou: NDArray[np.float64]  # [n] IoU of mask and annotation at original resolution
    boundary_iou: NDArray[np.float64]  # [n] boundary IoU (Cheng et al., 2021) at original resolution

    def __len__(self) -> int:
        return len(self.images)

    @property
    def crowded(self) -> NDArray[np.bool_]:
        """Tell whether other persons cover more than a tenth of each ROI, [n]."""
        return self.non_target_share > CROWDED

    @property
    def names(self) -> list[tuple[str, str]]:
        """Return the (image id, annotation id) of each ROI."""
        return list(zip(self.images.tolist(), self.annotations.tolist(), strict=True))


def read_rois(path: Path) -> Rois:
    """Read `instances.csv`, which a run writes after its test.

    Raises:
        UserError: a missing column, an invalid value, a duplicate ROI, or no ROIs.
    """
    with require_file(path, "instances").open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"{path} has no column `{missing[0]}`: it is not the file of a run")
        rows = [
            (row["image_id"], row["annotation_id"], _numbers(row, path, reader.line_num)) for row in reader
        ]
    if not rows:
        raise UserError(f"{path} has no ROIs: remove this run")
    rows.sort(key=lambda row: row[:2])
    images, annotations, numbers = zip(*rows, strict=True)
    if duplicates := [a for a, b in pairwise(rows) if a[:2] == b[:2]]:
        image, annotation, _ = duplicates[0]
        raise UserError(f"{path}: duplicate annotation {annotation} of image {image}: remove this run")
    table = np.array(numbers)
    return Rois(np.array(images), np.array(annotations), table[:, :4], *table[:, 4:].T)


def _numbers(row: dict[str, str], path: Path, line: int) -> list[float]:
    values = []
    for name in (*_BOX, "area", *_SHARES):
        try:
            value = float(row[name])
        except (TypeError, ValueError):  # short rows contain None
            value = float("nan")
        if not np.isfinite(value) or (name in _SHARES and not 0 <= value <= 1):
            raise UserError(
                f"{path} line {line}: `{name}` is {row[name]!r}, it must be a number"
                f"{' from 0 to 1' if name in _SHARES else ''}: remove this run"
            )
        values.append(value)
    return values


_RUN_FILES = ("config.yaml", "summary.json", "instances.csv")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: its configuration by dotted key; paths in the run's own folders are relative to them, so that
            equal settings have equal values.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    rois: Rois

    @property
    def seeds(self) -> list[Any]:
        """Return the seed of the run, or those of an ensemble's members, with each of which it is paired."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, list) else [seed]

    @property
    def fold(self) -> Any:
        """Return the held-out fold; None without cross-validation."""
        return self.config.get("data.folds.held_out")

    @property
    def is_evaluation(self) -> bool:
        """Tell whether `evaluate` wrote it, which knows neither the training's images nor its overrides."""
        return self.summary["data"].get("train_images") is None


def run_folders(folders: Iterable[str | Path]) -> list[Path]:
    """Return all run folders in `folders`, at any depth, each once, in natural order (`2_x`, `10_x`).

    Raises:
        UserError: a folder is missing.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        top = require_dir(folder, "runs", "give the output folder of a run or of a sweep")
        for path in _walk(top):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], dict[Path, str]]:
    """Read all finished runs in `folders`; return them and the missing file of each unfinished run.

    Raises:
        UserError: a folder is missing, there is no finished run, or a file is damaged.
    """
    runs: list[Run] = []
    unfinished: dict[Path, str] = {}
    for folder in track(run_folders(folders), "reading runs"):
        missing = [name for name in _RUN_FILES if not (folder / name).is_file()]
        if missing:
            unfinished[folder] = missing[0]
        else:
            runs.append(read_run(folder))
    if not runs:
        places = ", ".join(map(str, folders))
        reason = f"{len(unfinished)} without {', '.join(sorted(set(unfinished.values())))}"
        reason = reason if unfinished else "no folder with a config.yaml"
        raise UserError(f"no finished run in {places} ({reason}): a run writes instances.csv after its test")
    return runs, unfinished


def read_run(folder: Path) -> Run:
    """Read one finished run.

    Raises:
        UserError: a file is missing or invalid.
    """
    config = flatten(_read_yaml(folder / "config.yaml"))
    summary = read_summary(folder / "summary.json")
    rois = read_rois(folder / "instances.csv")
    _check_together(folder, config, summary, rois)
    if isinstance(digest := summary.get("extractor_sha256"), str):  # the path may have had another file
        config["extractor.sha256"] = digest[:12]
    if config.get("data.folds.held_out") is not None:  # each fold has its own
        if isinstance(teachers := config.get("distillation.teachers"), list):
            config["distillation.teachers"] = len(teachers)
        if isinstance(extra := config.get("data.extra_annotations"), str):
            config["data.extra_annotations"] = PurePath(extra).name
    return Run(folder, _without_own_folders(config), summary, rois)


class _Parameters(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]
    trainable: float


class _Summary(TypedDict):
    """What is read of `summary.json`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    test: dict[str, float]
    data: dict[str, Any]
    parameters: _Parameters
    seconds: float
    choices: NotRequired[dict[str, Any]]
    overrides: NotRequired[list[str]]


_SUMMARY = TypeAdapter(_Summary)


def read_summary(path: Path) -> dict[str, Any]:
    """Read the `summary.json` of a run with a test.

    Raises:
        UserError: the file is missing or invalid.
    """
    summary: dict[str, Any] = read_json(path, "summary")
    check_record(summary, _SUMMARY, f"{path} of a damaged run (remove it)")
    return summary


def _check_together(folder: Path, config: dict[str, Any], summary: dict[str, Any], rois: Rois) -> None:
    """Check that the files in a folder are from the same run."""
    seed, measured = config.get("seed"), float(rois.iou.mean())
    logged_seed, logged = summary.get("seed", seed), summary["test"].get("test/instance_iou", measured)
    if logged_seed != seed:
        conflict = f"seed {logged_seed}, config.yaml {seed}"
    elif not isinstance(logged, (int, float)) or not abs(logged - measured) < _ROUNDING:
        conflict = f"test/instance_iou {logged}, instances.csv {measured:.4f}"
    else:
        return
    raise UserError(f"{folder / 'summary.json'} has {conflict}: files of different runs, remove this folder")


_ROUNDING = 1e-3


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one with dotted keys; an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _walk(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        if "config.yaml" in files or "summary.json" in files:
            below.clear()  # loggers write such files inside a run
            yield Path(path)
        below.sort(key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for part, text in re.findall(r"(\d*)(\D*)", name)]


# dates that do not exist, text that is not UTF-8, odd keys, endless nesting
_ODD_YAML = (ValueError, TypeError, AssertionError, AttributeError, RecursionError)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(require_file(path, "configuration")))
    except (OmegaConfBaseException, YAMLError, OSError, *_ODD_YAML) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"configuration file {path} cannot be read ({reason}): remove this run") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration file {path} holds no keys: remove this run")
    return {str(key): value for key, value in content.items()}


def _without_own_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Replace the run's folders (`paths.*`) in values by their names: `{output_dir}/overlays`."""
    own = {str(value): key[6:] for key, value in config.items() if key.startswith("paths.") and value}
    innermost = sorted(own, key=len, reverse=True)

    def shorten(value: Any) -> Any:
        for folder in innermost if isinstance(value, str) else ():
            if value == folder or value.startswith(f"{folder}/"):
                return f"{{{own[folder]}}}{value[len(folder) :]}"
        return value

    return {key: shorten(value) for key, value in config.items()}
