"""Files of an evaluation: `instances.csv`, `results.json`, `worst.png`, `best.png`, and those of a run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roiseg.common.files import atomic_path, open_text, write_json
from roiseg.data.dataset import RoiDataset
from roiseg.evaluation.evaluator import Evaluation
from roiseg.evaluation.ranking import ranking_sheet
from roiseg.metrics.instance import InstanceRecord
from roiseg.visualize.canvas import write_image


def write_table(path: Path, records: Iterable[InstanceRecord]) -> None:
    """Write one row per instance, sorted by image and annotation; the write is atomic.

    The columns are the fields of `InstanceRecord`; boxes are rounded to a thousandth of a pixel.
    """
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(InstanceRecord._fields)
        for record in sorted(records, key=lambda r: (r.image_id, r.annotation_id)):
            box = {side: round(getattr(record, side), 3) for side in ("x1", "y1", "x2", "y2")}
            writer.writerow(record._replace(**box))


def write_instances(folder: Path, evaluation: Evaluation, dataset: RoiDataset) -> None:
    """Write `instances.csv`, `results.json` (every mask in COCO's format), `worst.png` and `best.png`.

    Args:
        folder: output folder, created if missing.
        evaluation: the figures.
        dataset: the data set they were measured on.
    """
    write_table(folder / "instances.csv", evaluation.records)
    write_json(folder / "results.json", evaluation.results)
    for name, instances in evaluation.ranked.items():
        if instances:
            write_image(folder / f"{name}.png", ranking_sheet(name, instances, dataset))


def write_as_run(
    folder: Path, config: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Write `config.yaml` and `summary.json`, so that `python -m roiseg.report` reads the folder as a run.

    Args:
        folder: the folder with `instances.csv`.
        config: configuration that the checkpoint was trained with.
        data: configuration of the evaluated data, in place of `config["data"]`.
        summary: see `roiseg.reporting.runs`.
    """
    with atomic_path(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create({**config, "data": dict(data)}), path)
    write_json(folder / "summary.json", dict(summary))
