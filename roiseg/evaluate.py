"""`python -m roiseg.evaluate ckpt=... [onnx=...]`: what a checkpoint, an exported file, or both are worth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roiseg.common.console import console, track
from roiseg.common.errors import UserError
from roiseg.common.files import write_json
from roiseg.common.outputs import check_folder
from roiseg.config.build import to_plain
from roiseg.config.checkpoint_options import register_checkpoint_data
from roiseg.config.entry import command
from roiseg.config.evaluation_setup import Evaluated, open_models
from roiseg.config.run_dir import create_unique_dir
from roiseg.config.run_summary import package_versions
from roiseg.config.validation import check_types
from roiseg.evaluation import tables
from roiseg.evaluation.detections import DetectionEvaluation, evaluate_detections
from roiseg.evaluation.difference import difference
from roiseg.evaluation.evaluator import Evaluation, Evaluator
from roiseg.evaluation.result_files import write_as_run, write_instances
from roiseg.inference.model import PRECISIONS


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure, show and write from a composed configuration; returns what evaluation.json holds."""
    leave_out_training(cfg)
    check(cfg)
    models = open_models(cfg)
    first = next(iter(models.values()))
    summary: dict[str, Any] = {
        "models": {name: model.summary() for name, model in models.items()},
        "data": first.data_summary(),
        "boxes": cfg.boxes,
    }
    console.print(tables.header_table(summary))
    summary |= (on_detector if cfg.boxes == "detector" else on_annotations)(cfg, models)
    summary["versions"] = package_versions()
    folder = Path(summary["output_dir"])
    write_json(folder / "evaluation.json", summary)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file())
    console.print(f"{folder}: {', '.join(files)}", soft_wrap=True)
    return summary


def leave_out_training(cfg: DictConfig) -> None:
    """Ask for no training files where none are read."""
    for kind in ("annotations", "images"):
        if OmegaConf.is_missing(cfg.data, f"train_{kind}") and not cfg.data.folds:
            missing = OmegaConf.is_missing(cfg.data, f"val_{kind}")
            cfg.data[f"train_{kind}"] = "" if missing else cfg.data[f"val_{kind}"]


def check(cfg: DictConfig) -> None:
    """Look at the options before anything is opened.

    Raises:
        UserError: one is wrong.
    """
    if cfg.ckpt is None and cfg.onnx is None:
        raise UserError("give ckpt=... (a checkpoint), onnx=... (an exported file), or both")
    if cfg.precision is not None and cfg.precision not in PRECISIONS:
        raise UserError(f"precision is {cfg.precision}, it must be one of {', '.join(PRECISIONS)}")
    check_types(to_plain(cfg))
    check_folder(cfg.output_dir, "output_dir")
    if cfg.boxes not in ("annotations", "detector"):
        raise UserError(f"boxes is {cfg.boxes}, it must be annotations or detector")
    if cfg.worst < 0:
        raise UserError(f"worst is {cfg.worst}, it must be a whole number, 0 or more")
    if not 0 <= cfg.min_score < 1:
        raise UserError(f"min_score is {cfg.min_score}, it must be a number from 0 to below 1")


def on_annotations(cfg: DictConfig, models: Mapping[str, Evaluated]) -> dict[str, Any]:
    """Measure on annotated boxes, show and write."""
    found: dict[str, Evaluation] = {}
    seconds: dict[str, float] = {}
    for name, model in models.items():
        started = time.perf_counter()
        found[name] = measure(cfg, name, model)
        seconds[name] = time.perf_counter() - started
    off = difference(*found.values()) if len(found) == 2 else None
    console.print(tables.figures_table(found, off), tables.groups_table(found))
    for evaluation in found.values():
        console.print(tables.confusion_table(evaluation.classes))
    if off is not None:
        console.print(tables.difference_line(off), soft_wrap=True)
    folder = create_unique_dir(cfg.output_dir)
    for name, model in models.items():
        own = folder / name if len(models) > 1 else folder
        write_instances(own, found[name], model.data.dataset("val"))
        if model.trained is not None:
            summary = model.run_summary(found[name].test, seconds[name])
            write_as_run(own, model.trained.config, to_plain(cfg)["data"], summary)
    told = {name: evaluation.summary() for name, evaluation in found.items()}
    return {"output_dir": str(folder), "evaluations": told, "difference": off and off.summary()}


def measure(cfg: DictConfig, name: str, model: Evaluated) -> Evaluation:
    """One model on annotated boxes, under a progress bar."""
    evaluator = Evaluator(
        model.model, model.data.dataset("val"), cfg.worst, cfg.mask_quality, model.data.category_id
    )
    batches = model.data.test_dataloader()
    for batch in track(batches, f"measuring the {name}", total=len(batches)):
        evaluator.update(batch)
    return evaluator.compute()


def on_detector(cfg: DictConfig, models: Mapping[str, Evaluated]) -> dict[str, Any]:
    """Measure on what the detector finds, show and write."""
    found: dict[str, DetectionEvaluation] = {}
    for name, model in models.items():
        dataset, predictor = model.data.dataset("val"), model.predictor(cfg.min_score)
        found[name] = evaluate_detections(
            predictor, dataset.annotations, dataset.image_dir, cfg.mask_quality, model.data.category_id
        )
    console.print(tables.detections_table(found))
    folder = create_unique_dir(cfg.output_dir)
    for name, evaluation in found.items():
        own = folder / name if len(models) > 1 else folder
        write_json(own / "results.json", evaluation.results)
    told = {name: evaluation.summary() for name, evaluation in found.items()}
    return {"output_dir": str(folder), "evaluations": told}


@command("evaluate", prepare=register_checkpoint_data)
def main(cfg: DictConfig) -> None:
    """Evaluate."""
    evaluate(cfg)


if __name__ == "__main__":
    main()
