"""Analyze the ROIs of an annotation file: class shares, overlap, sizes, and recommended class weights.

Everything is computed from the outlines; no image is read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roiseg.common.errors import UserError
from roiseg.common.files import file_digest, home_path, read_json, write_json
from roiseg.data.annotations import Annotations
from roiseg.data.roi_statistics import CLASSES, RoiStatistics, measure_rois

log = logging.getLogger(__name__)

CROWDED = 0.1
_CLIP = (0.1, 10.0)  # class weights
_LOG_OFFSET = 1.02  # keeps the logarithm above 0: raw weights lie within 1.4 (share 1) and 50 (share 0)
_WEIGHTS: dict[str, Callable[[float], float]] = {
    "inverse": lambda share: 1 / share,
    "log": lambda share: 1 / math.log(_LOG_OFFSET + share),
}
_FORMAT = 2  # raise it to invalidate older files
_BAND_EDGES = (0, 16, 32, 64, 96, 192, math.inf)  # sqrt(ROI area), original pixels
_COCO_EDGES = (0, 32, 96, math.inf)
_TOLERANCE = 1e-3  # pixels; that of `Annotations.eligible`

DEFINITIONS = {
    "roi": "annotated box of a non-crowd instance, both sides at least parameters.min_roi_size pixels",
    "pixels": "cells by class on a grid of parameters.grid x parameters.grid cells over each ROI, all "
    "ROIs pooled: what a loss inside the ROI sees; a large ROI counts as much as a small one",
    "shares": "pixels divided by their sum",
    "area_weighted": "the same with every ROI's cells weighted by its area: pixels are original pixels, "
    "large ROIs count more",
    "target": "pixels of the person the ROI belongs to; wins over every other class where masks overlap",
    "non_target": "pixels of any other person in the ROI",
    "ignore": "crowd regions outside every person; left out of the class weights",
    "totals.rois_too_small": "non-crowd instances that are not ROIs but non-target in the ROIs of others",
    "instances_per_image": "number of images by their number of non-crowd instances",
    "overlap.non_target_share": "non-target cells of a ROI divided by all its cells, over the ROIs",
    "overlap.crowded": f"share of ROIs with a non-target share above {CROWDED}",
    "overlap.nearest_box_iou": "highest box IoU of a ROI with another non-crowd instance; 0 where none is",
    "roi_size": "original pixels; aspect is width / height; COCO's size classes applied to sqrt(ROI area)",
    "size_bands": "pixels and shares as above, by sqrt(ROI area) in original pixels, lower end included",
    "class_weights": "by kind and number of classes, from pixels without ignore; inverse: 1 / share, "
    "log: 1 / ln(1.02 + share); divided by the mean, clipped to 0.1..10, divided by the mean; "
    "a class that never occurs counts as 10 before the last division; "
    "with 2 classes non-target pixels are background",
}


def analyze(annotations: Annotations, min_roi_size: float = 16, grid: int = 56) -> dict[str, Any]:
    """Analyze all ROIs of a data set with a progress bar.

    Args:
        min_roi_size: smallest side of a ROI in original pixels.
        grid: side of the grid over each ROI, in cells.

    Returns:
        The content of `data_analyze.json`; its `definitions` explain each figure.

    Raises:
        UserError: no instance is large enough.
    """
    rois = measure_rois(annotations, min_roi_size, grid)
    if not len(rois.counts):
        raise UserError(
            f"{annotations.path} has no instance of at least {min_roi_size:g} x {min_roi_size:g} pixels: "
            f"lower min_roi_size"
        )
    pixels = rois.counts.sum(axis=0)
    cumulated = np.concatenate([[0], np.cumsum(~annotations.crowd)])
    persons = np.diff(cumulated[annotations.first])  # non-crowd instances of each image
    per_image, images = np.unique(persons, return_counts=True)
    return {
        "format": _FORMAT,
        "fingerprint": analysis_fingerprint(annotations, min_roi_size, grid),
        "source": annotations.path.name,
        "parameters": {"min_roi_size": float(min_roi_size), "grid": grid},
        "definitions": DEFINITIONS,
        "totals": {
            "images": len(annotations),
            "images_with_rois": rois.images,
            "instances": int(persons.sum()),
            "rois": len(rois.counts),
            "rois_too_small": int(persons.sum()) - len(rois.counts),
            "crowds": int(annotations.crowd.sum()),
        },
        **_pixels_and_shares(pixels),
        "area_weighted": _pixels_and_shares(
            np.rint((rois.counts / grid**2 * rois.area[:, None]).sum(axis=0))
        ),
        "instances_per_image": {str(n): int(count) for n, count in zip(per_image, images, strict=True)},
        "overlap": _overlap(rois, grid),
        "roi_size": _roi_size(rois, min_roi_size),
        "size_bands": _size_bands(rois, min_roi_size),
        "class_weights": recommend_all(*(int(count) for count in pixels[:3])),
    }


def analysis_fingerprint(annotations: Annotations, min_roi_size: float, grid: int) -> str:
    """Return the SHA-256 of everything an analysis depends on: the file, its instances, the parameters."""
    # the file may hold several categories, and crowds may be read as instances
    instances = hashlib.sha256(annotations.ids.tobytes() + annotations.crowd.tobytes()).hexdigest()
    parts = (_FORMAT, file_digest(annotations.path), instances, float(min_roi_size), grid)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def analysis_path(output_dir: str | Path, annotations_path: str | Path) -> Path:
    """Return the path of an annotation file's analysis: `<output_dir>/<data set>_<file>/data_analyze.json`.

    The data set is the folder above the one the file is in (`synthetic` of
    `data/synthetic/annotations/instances.json`).
    """
    source = Path(os.path.abspath(home_path(annotations_path)))
    return home_path(output_dir) / f"{source.parent.parent.name}_{source.stem}" / "data_analyze.json"


def load_or_make_analysis(
    path: str | Path, annotations: Annotations, min_roi_size: float = 16, grid: int = 56
) -> dict[str, Any]:
    """Load the analysis at `path` if it matches the annotations and parameters, else compute and write it.

    Raises:
        UserError: as `analyze`, or the file cannot be written.
    """
    path = Path(path)
    found = _read_fitting(path, analysis_fingerprint(annotations, min_roi_size, grid))
    if found is not None:
        return found
    analysis = analyze(annotations, min_roi_size, grid)
    analysis["checksum"] = _checksum(analysis)
    write_json(path, analysis, is_analysis)
    return analysis


def is_analysis(path: Path) -> bool:
    """Tell whether a file contains the result of `analyze` for any annotations."""
    try:
        content = read_json(path, "analysis")
    except UserError:
        return False
    return isinstance(content, dict) and {"fingerprint", "shares", "class_weights"} <= content.keys()


def _read_fitting(path: Path, expected: str) -> dict[str, Any] | None:
    if not path.exists():
        log.info("%s does not exist: analyzing the annotations", path)
        return None
    try:
        content = read_json(path, "analysis")
    except UserError as error:
        log.warning("%s; analyzing the annotations again", error)
        return None
    if not isinstance(content, dict) or content.get("fingerprint") != expected:
        log.info("%s belongs to other annotations or parameters: analyzing the annotations again", path)
        return None
    if content.get("checksum") != _checksum(content):
        log.warning("%s was edited or is damaged: analyzing the annotations again", path)
        return None
    log.info("%s is up to date", path)
    return content


def _checksum(analysis: dict[str, Any]) -> str:
    """Return the SHA-256 of all other entries."""
    rest = {key: value for key, value in analysis.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _pixels_and_shares(pixels: NDArray[Any]) -> dict[str, dict[str, Any]]:
    total = pixels.sum()
    return {
        "pixels": {name: int(count) for name, count in zip(CLASSES, pixels, strict=True)},
        "shares": {
            name: round(float(count / total), 6) if total else None
            for name, count in zip(CLASSES, pixels, strict=True)
        },
    }


def _summary(values: ArrayLike) -> dict[str, float]:
    """Return mean and quantiles; 5 % of the values lie below p05."""
    array = np.asarray(values, np.float64)
    names = ("min", "p05", "p25", "p50", "p75", "p95", "max")
    quantiles = np.quantile(array, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    numbers = {"mean": array.mean(), **dict(zip(names, quantiles, strict=True))}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _histogram(values: NDArray[Any], edges: NDArray[Any]) -> dict[str, list[float] | list[int]]:
    """Count values between `edges`; values beyond them fall into the outer bins."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()}


def _overlap(rois: RoiStatistics, grid: int) -> dict[str, Any]:
    share = rois.counts[:, CLASSES["non_target"]] / grid**2
    return {
        "any_non_target": round(float((share > 0).mean()), 6),
        "crowded": round(float((share > CROWDED).mean()), 6),
        "non_target_share": _summary(share),
        "non_target_share_histogram_of_rois_with_any": _histogram(share[share > 0], np.linspace(0, 1, 21)),
        "nearest_box_iou": _summary(rois.nearest_iou),
    }


def _roi_size(rois: RoiStatistics, min_roi_size: float) -> dict[str, Any]:
    width, height = rois.sides.astype(np.float64).T
    side = np.sqrt(rois.area) + _TOLERANCE
    first, last = math.floor(2 * math.log2(max(1, min_roi_size))), math.floor(2 * math.log2(side.max())) + 1
    of_coco = np.histogram(side, _COCO_EDGES)[0]
    return {
        "width": _summary(width),
        "height": _summary(height),
        "area": _summary(rois.area),
        "aspect": _summary(width / height),
        "coco": dict(zip(("small", "medium", "large"), of_coco.tolist(), strict=True)),
        "sqrt_area_histogram": _histogram(side, 2.0 ** (np.arange(first, last + 1) / 2)),
    }


def _size_bands(rois: RoiStatistics, min_roi_size: float) -> dict[str, Any]:
    side = np.sqrt(rois.area) + _TOLERANCE
    bands = {}
    for low, high in itertools.pairwise(_BAND_EDGES):
        if high <= min_roi_size:
            continue
        inside = (side >= low) & (side < high)
        name = f"{low}+" if math.isinf(high) else f"{low}-{high}"
        bands[name] = {"rois": int(inside.sum()), **_pixels_and_shares(rois.counts[inside].sum(axis=0))}
    return bands


def recommend(shares: Sequence[float], kind: str) -> list[float]:
    """Return weights of mean 1 from the classes' shares of the pixels.

    "inverse" is 1 / share; "log" is 1 / ln(1.02 + share) (ENet, Paszke et al., 2016), which is much
    milder. Raw weights are divided by their mean over the classes that occur and clipped to 0.1..10;
    a class that never occurs gets 10; finally all are divided by their mean.

    Args:
        shares: share of each class, 0..1.
        kind: "inverse" or "log".
    """
    formula = _WEIGHTS[kind]
    raw = [formula(share) if share > 0 else math.inf for share in shares]
    occurring = [value for value in raw if math.isfinite(value)]
    mean = sum(occurring) / max(1, len(occurring))
    clipped = [_CLIP[1] if math.isinf(value) else min(max(value / mean, _CLIP[0]), _CLIP[1]) for value in raw]
    return [value * len(clipped) / sum(clipped) for value in clipped]


def recommend_all(background: float, target: float, non_target: float) -> dict[str, dict[str, list[float]]]:
    """Return weights `{kind: {"2": [...], "3": [...]}}` by number of classes, from pixel counts or shares.

    With 2 classes non-target pixels are background.
    """
    total = (background + target + non_target) or 1
    shares = {
        "2": [(background + non_target) / total, target / total],
        "3": [background / total, target / total, non_target / total],
    }
    return {
        kind: {number: [round(weight, 6) for weight in recommend(of, kind)] for number, of in shares.items()}
        for kind in _WEIGHTS
    }
