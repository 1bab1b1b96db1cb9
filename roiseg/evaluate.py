"""`python -m roiseg.evaluate ckpt=... [onnx=...]`: measure a checkpoint, an exported file, or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt

from roiseg.common.console import console, print_values, track
from roiseg.common.errors import UserError
from roiseg.common.files import write_json
from roiseg.common.outputs import check_folder
from roiseg.common.types import Seed, ShareBelowOne
from roiseg.config.build import to_plain
from roiseg.config.entry import command
from roiseg.config.evaluation_setup import Evaluated, open_models, register_checkpoint_data
from roiseg.config.run_dir import create_unique_dir
from roiseg.config.run_summary import package_versions
from roiseg.config.validation import PathOptions, check_onnx_options, validated
from roiseg.data.datamodule import RoiDataModule
from roiseg.data.tta import TTA
from roiseg.evaluation import tables
from roiseg.evaluation.detections import DetectionEvaluation, evaluate_detections
from roiseg.evaluation.evaluator import Evaluation, Evaluator, difference, write_as_run, write_table
from roiseg.evaluation.ranking import ranking_sheet
from roiseg.extractor.postprocess.base import Postprocessor
from roiseg.inference.decision import Decision
from roiseg.visualize.canvas import write_image


class Options(TypedDict):
    """Keys of conf/evaluate.yaml."""

    paths: PathOptions
    data: RoiDataModule
    tta: TTA | None
    decision: Decision | None
    postprocess: Postprocessor | None
    ckpt: str | list[str] | None
    onnx: str | None
    onnx_path: str | None
    boxes: Literal["annotations", "detector"]
    min_score: ShareBelowOne
    worst: NonNegativeInt
    best: NonNegativeInt
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None
    device: str | None
    seed: Seed
    output_dir: str


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
    print_values({name: model["file"] for name, model in summary["models"].items()})
    for path in summary["data"]["annotations"]:
        print_values({"annotations": path})
    summary |= (on_detector if cfg.boxes == "detector" else on_annotations)(cfg, models)
    summary["versions"] = package_versions()
    folder = Path(summary["output_dir"])
    write_json(folder / "evaluation.json", summary)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file())
    print_values({str(folder): ", ".join(files)})
    return summary


def leave_out_training(cfg: DictConfig) -> None:
    """Do not require training files if they are not read."""
    for kind in ("annotations", "images"):
        if OmegaConf.is_missing(cfg.data, f"train_{kind}") and not cfg.data.folds:
            missing = OmegaConf.is_missing(cfg.data, f"val_{kind}")
            cfg.data[f"train_{kind}"] = "" if missing else cfg.data[f"val_{kind}"]


def check(cfg: DictConfig) -> None:
    """Check combinations of options before anything is opened.

    Raises:
        UserError: one is wrong.
    """
    if cfg.ckpt is None and cfg.onnx is None:
        raise UserError("give ckpt=... (a checkpoint), onnx=... (an exported file), or both")
    check_onnx_options(cfg, ("tta",) if cfg.ckpt is not None else ("tta", "precision", "device", "decision"))
    validated(cfg, Options)
    check_folder(cfg.output_dir, "output_dir")


# options of the data that decide what is measured; the others are those of the training
_MEASURED = (
    "train_annotations", "train_images", "val_annotations", "val_images", "reader", "folds", "category_id",
    "crowd", "min_roi_size", "metric_size", "tta",
)  # fmt: skip


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
        write_table(own / "instances.csv", found[name].records)
        write_json(own / "results.json", found[name].results)
        for rank, instances in found[name].ranked.items():
            if instances:
                sheet = ranking_sheet(rank, instances, model.data.dataset("val"))
                write_image(own / f"{rank}.png", sheet)
        if model.trained is not None:
            summary = model.run_summary(found[name].test, seconds[name])
            write_as_run(own, measured_config(cfg, model.trained.config), summary)
    told = {name: evaluation.summary() for name, evaluation in found.items()}
    return {"output_dir": str(folder), "evaluations": told, "difference": off and off.summary()}


def measured_config(cfg: DictConfig, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training configuration with what this evaluation replaced, so that `report` names both."""
    given = to_plain(cfg)
    data = {**trained["data"], **{key: given["data"].get(key) for key in _MEASURED}}
    config = {**trained, "data": data, "tta": given["tta"]}
    if given["decision"] is not None:
        config["decision"] = given["decision"]
    if given["precision"] is not None:
        config["trainer"] = {**trained["trainer"], "precision": given["precision"]}
    return config


def measure(cfg: DictConfig, name: str, model: Evaluated) -> Evaluation:
    """Measure one model on annotated boxes, under a progress bar."""
    data = model.data
    evaluator = Evaluator(model.model, data.dataset("val"), cfg.worst, cfg.best, data.category_id)
    batches = data.test_dataloader()
    for batch in track(batches, f"measuring the {name}", total=len(batches)):
        evaluator.update(batch)
    return evaluator.compute()


def on_detector(cfg: DictConfig, models: Mapping[str, Evaluated]) -> dict[str, Any]:
    """Measure on the detector's boxes, show and write."""
    found: dict[str, DetectionEvaluation] = {}
    for name, model in models.items():
        dataset, predictor = model.data.dataset("val"), model.predictor(cfg.min_score)
        found[name] = evaluate_detections(
            predictor, dataset.annotations, dataset.image_dir, model.data.category_id
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
