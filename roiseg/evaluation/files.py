"""What an evaluation leaves for programs and people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roiseg.common.files import atomic_path, write_json
from roiseg.data.dataset import RoiDataset
from roiseg.evaluation.evaluation import Evaluation
from roiseg.evaluation.instance_table import write_table
from roiseg.evaluation.ranking import ranking_sheet
from roiseg.visualize.overlays import save_png


def write_instances(folder: Path, evaluation: Evaluation, dataset: RoiDataset) -> None:
    """Write `instances.csv`, `results.json` (every mask in COCO's format) and `worst.png`.

    Args:
        folder: made if absent.
        evaluation: what was measured.
        dataset: on what.
    """
    write_table(folder / "instances.csv", evaluation.records)
    write_json(folder / "results.json", evaluation.results)
    if evaluation.worst:
        save_png(folder / "worst.png", ranking_sheet("worst", evaluation.worst, dataset))


def write_as_run(
    folder: Path, config: Mapping[str, Any], data: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Write `config.yaml` and `summary.json`, with which `python -m roiseg.report` reads the folder as a run.

    Args:
        folder: where `instances.csv` is.
        config: what the checkpoint was trained with.
        data: what it was evaluated on, in the place of `config["data"]`.
        summary: see `roiseg.reporting.runs`.
    """
    with atomic_path(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create({**config, "data": dict(data)}), path)
    write_json(folder / "summary.json", dict(summary))
