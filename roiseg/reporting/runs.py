"""Finished runs as training leaves them: configuration, summary, and what was measured on each test ROI."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from roiseg.common.console import track
from roiseg.common.errors import UserError
from roiseg.common.files import read_json, require_dir, require_file
from roiseg.data.analysis import CROWDED

_BOX = ("x1", "y1", "x2", "y2")
_SHARES = ("non_target_share", "iou", "boundary_iou")
_COLUMNS = ("image_id", "annotation_id", *_BOX, "area", *_SHARES)


@dataclass(frozen=True)
class Rois:
    """The test ROIs of a run, sorted by image and annotation.

    Attributes:
        images: [n] image ids.
        annotations: [n] annotation ids.
        boxes: [n, 4] x1, y1, x2, y2 in original pixels.
        area: [n] pixels of the annotated mask at original size.
        non_target_share: [n] share of the ROI that other annotated persons cover.
        iou: [n] IoU of mask and annotation at original resolution.
        boundary_iou: [n] boundary IoU (Cheng et al., 2021) at original resolution.
    """

    images: NDArray[np.str_]
    annotations: NDArray[np.str_]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    non_target_share: NDArray[np.float64]
    iou: NDArray[np.float64]
    boundary_iou: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def crowded(self) -> NDArray[np.bool_]:
        """[n] does more than a tenth of the ROI belong to other persons?"""
        return self.non_target_share > CROWDED

    @property
    def names(self) -> list[tuple[str, str]]:
        """(image id, annotation id) of each ROI."""
        return list(zip(self.images.tolist(), self.annotations.tolist(), strict=True))


def read_rois(path: Path) -> Rois:
    """Read the file a run leaves after its test.

    Raises:
        UserError: a column is absent, a value is no number or out of range, a ROI is there twice, or none is.
    """
    with require_file(path, "instances").open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        if absent := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"{path} has no column `{absent[0]}`: it is not an instances.csv of roiseg.train")
        rows = [
            (row["image_id"], row["annotation_id"], _numbers(row, path, reader.line_num)) for row in reader
        ]
    if not rows:
        raise UserError(f"{path} holds no ROI: remove this run")
    rows.sort(key=lambda row: row[:2])
    images, annotations, numbers = zip(*rows, strict=True)
    twice = [a for a, b in pairwise(rows) if a[:2] == b[:2]]
    if twice:
        raise UserError(f"{path}: annotation {twice[0][1]} of image {twice[0][0]} is there twice")
    table = np.array(numbers)
    return Rois(np.array(images), np.array(annotations), table[:, :4], *table[:, 4:].T)


def _numbers(row: dict[str, str], path: Path, line: int) -> list[float]:
    values = []
    for name in (*_BOX, "area", *_SHARES):
        try:
            value = float(row[name])
        except (TypeError, ValueError):  # a short row holds None
            value = float("nan")
        if not np.isfinite(value) or (name in _SHARES and not 0 <= value <= 1):
            raise UserError(
                f"{path} line {line}: `{name}` is {row[name]!r}, it must be a number"
                f"{' from 0 to 1' if name in _SHARES else ''}: remove this run"
            )
        values.append(value)
    return values


_MARKS = ("config.yaml", "summary.json")  # a folder with either is a run's
_NEEDED = ("config.yaml", "summary.json", "instances.csv")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        config: its configuration by dotted key; the run's own folders are replaced by their names, so that
            equal settings are equal.
        summary: content of `summary.json`.
        rois: what was measured on each test ROI.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    rois: Rois

    @property
    def seed(self) -> Any:
        """The run's seed."""
        return self.config.get("seed")

    @property
    def fold(self) -> Any:
        """The part of the images it was measured on; None without cross-validation."""
        return self.config.get("data.folds.held_out")


def run_folders(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of all runs in `folders`, at any depth, each once; by number and name, `2_x` before `10_x`.

    Raises:
        UserError: one of `folders` is no folder.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        top = require_dir(folder, "runs", "give the output folder of a run or of a sweep")
        for path in _walk(top):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_runs(folders: Sequence[str | Path]) -> tuple[list[Run], dict[Path, str]]:
    """All finished runs in `folders`; and the unfinished ones, each with the file that is absent.

    Raises:
        UserError: a folder is absent, no finished run is in them, or a run's file is damaged.
    """
    runs: list[Run] = []
    unfinished: dict[Path, str] = {}
    for folder in track(run_folders(folders), "reading runs"):
        absent = [name for name in _NEEDED if not (folder / name).is_file()]
        if absent:
            unfinished[folder] = absent[0]
        else:
            runs.append(read_run(folder))
    if not runs:
        places = ", ".join(map(str, folders))
        reason = f"{len(unfinished)} without {', '.join(sorted(set(unfinished.values())))}"
        reason = reason if unfinished else "no folder with a config.yaml"
        raise UserError(
            f"there is no finished run in {places} ({reason}): a run writes instances.csv after its test"
        )
    return runs, unfinished


def read_run(folder: Path) -> Run:
    """One finished run.

    Raises:
        UserError: a file is absent or not what training writes.
    """
    config = flatten(_read_yaml(folder / "config.yaml"))
    summary = read_summary(folder / "summary.json")
    rois = read_rois(folder / "instances.csv")
    _check_together(folder, config, summary, rois)
    if isinstance(digest := summary.get("extractor_sha256"), str):  # one path may have held two detectors
        config["extractor.sha256"] = digest[:12]
    return Run(folder, _without_own_folders(config), summary, rois)


def read_summary(path: Path) -> dict[str, Any]:
    """What a run that was tested tells of itself.

    Raises:
        UserError: the file is absent or not what training writes.
    """
    summary = read_json(path, "summary")
    for key in ("test", "data", "parameters", "seconds"):
        if not isinstance(summary, dict) or key not in summary:
            raise UserError(f"{path} has no `{key}`: it is not of a run that was tested")
    sound = {
        "test": isinstance(summary["test"], dict)
        and all(isinstance(value, (int, float)) for value in summary["test"].values()),
        "data": isinstance(summary["data"], dict),
        "parameters": isinstance(summary["parameters"], dict)
        and _is_number(summary["parameters"].get("trainable")),
        "seconds": _is_number(summary["seconds"]),
        "choices": isinstance(summary.get("choices", {}), dict),
        "overrides": isinstance(summary.get("overrides", []), list)
        and all(isinstance(word, str) for word in summary.get("overrides", [])),
    }
    if wrong := [key for key, well in sound.items() if not well]:
        raise UserError(f"{path} is damaged, its `{wrong[0]}` is not what a run writes: remove this run")
    return summary


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _check_together(folder: Path, config: dict[str, Any], summary: dict[str, Any], rois: Rois) -> None:
    """Make sure that the files of a run are of the same run.

    Raises:
        UserError: two of them contradict each other.
    """
    seed, measured = config.get("seed"), float(rois.iou.mean())
    said = (summary.get("seed", seed), summary["test"].get("test/instance_iou", measured))
    if said[0] != seed:
        other = f"seed {said[0]}, config.yaml {seed}"
    elif not isinstance(said[1], (int, float)) or not abs(said[1] - measured) < _ROUNDED:
        other = f"test/instance_iou {said[1]}, instances.csv {measured:.4f}"
    else:
        return
    raise UserError(f"{folder / 'summary.json'} says {other}: they are of different runs, remove this one")


_ROUNDED = 1e-3


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, by dotted key; an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _walk(folder: Path) -> Iterator[Path]:
    for path, below, files in os.walk(folder):
        if any(mark in files for mark in _MARKS):
            below.clear()  # whatever loggers keep inside a run is not a run
            yield Path(path)
        below.sort(key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for part, text in re.findall(r"(\d*)(\D*)", name)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(require_file(path, "configuration")))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"configuration file {path} cannot be read ({reason}): remove this run") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration file {path} holds no keys: remove this run")
    return {str(key): value for key, value in content.items()}


def _without_own_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Paths below the run's folders (`paths.*`), relative to the innermost: `{output_dir}/overlays`."""
    own = {str(value): key[6:] for key, value in config.items() if key.startswith("paths.") and value}
    innermost = sorted(own, key=len, reverse=True)

    def shorten(value: Any) -> Any:
        for folder in innermost if isinstance(value, str) else ():
            if value == folder or value.startswith(f"{folder}/"):
                return f"{{{own[folder]}}}{value[len(folder) :]}"
        return value

    return {key: shorten(value) for key, value in config.items()}
