"""`python -m roiseg.decide DIR...`: compare and fit decisions on the held-out folds of finished runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roiseg.common.console import console, track
from roiseg.common.errors import UserError, require_choice
from roiseg.common.outputs import check_folder
from roiseg.config.argv import literal, quoted
from roiseg.config.compose import compose_run
from roiseg.config.entry import command
from roiseg.config.evaluation_setup import Evaluated, open_models, register_checkpoint_data
from roiseg.config.run_dir import create_unique_dir
from roiseg.config.run_summary import parameter_counts
from roiseg.config.validation import validated
from roiseg.data.analysis import CROWDED
from roiseg.evaluation.decision_fit import DecisionFit, fit_decision, shared_pixels
from roiseg.evaluation.evaluator import write_as_run, write_table
from roiseg.inference.checkpoint import write_decision
from roiseg.inference.checkpoint_folder import newest_checkpoint
from roiseg.inference.decision import Decision
from roiseg.metrics.instance import InstanceRecord, measure_instances
from roiseg.metrics.mask_score import calibration_error
from roiseg.report import listed
from roiseg.reporting.runs import Run, read_runs
from roiseg.reporting.variants import Variant, find_variants


class Options(TypedDict):
    """Keys of conf/decide.yaml."""

    rules: Mapping[str, Decision]
    ensemble: bool
    write: str | None
    output_dir: str


@dataclass(frozen=True)
class Predicted:
    """A run, or the ensemble of the runs of a fold, and its predictions of the held-out fold."""

    name: str  # unique among the runs
    runs: Sequence[Run]
    checkpoints: list[Path]
    evaluated: Evaluated
    fit: DecisionFit


def decide(cfg: DictConfig) -> Path:
    """Predict, fit, compare and write; returns the output folder.

    Raises:
        UserError: a mistake in the configuration, or runs of fewer than two folds.
    """
    validated(cfg, Options)
    check_folder(cfg.output_dir, "output_dir")
    rules: dict[str, Decision] = instantiate(cfg.rules, _convert_="all")
    if cfg.write is not None:
        require_choice("write", cfg.write, rules)
    runs, _ = read_runs(listed(cfg, "runs"))
    variants, _ = find_variants(runs)
    for variant in variants:
        if len({fold for fold, _ in variant.runs}) < 2:
            raise UserError(
                f"{variant.name}: runs of two folds or more are needed, since a fold's decision is fitted on "
                "the others: train with data/folds=five -m data.folds.held_out=0,1,2,3,4"
            )
    # runs of two sweeps may have folders of the same name
    names = {run.folder: f"{number}_{run.folder.name}" for number, run in enumerate(runs)}
    folder = create_unique_dir(cfg.output_dir)
    for variant in variants:
        each = [[run] for run in variant.runs.values()]
        own = list(folds_of(variant).values()) if cfg.ensemble else each
        predicted = [
            predict(runs, names[runs[0].folder]) for runs in track(own, f"predicting {variant.name}")
        ]
        console.print(compare(variant, predicted, rules, folder))
        if cfg.write is not None:
            decision = fit_decision(rules[cfg.write], [one.fit for one in predicted])
            for one in predicted:
                write_copies(one, decision, folder / "checkpoints" / one.name)
            console.print(f"{variant.name}, fitted on all folds: {decision}", highlight=False)
    console.print(f"{folder}: a run per decision, checkpoints/", soft_wrap=True)
    console.print(f"intervals: python -m roiseg.report {folder}", soft_wrap=True)
    return folder


def folds_of(variant: Variant) -> dict[Any, list[Run]]:
    """Return the runs of each fold."""
    folds: dict[Any, list[Run]] = {}
    for (fold, _), run in variant.runs.items():
        folds.setdefault(fold, []).append(run)
    return folds


def tested_checkpoint(run: Run) -> Path:
    """Return the checkpoint that the test of a run measured.

    Raises:
        UserError: it is missing.
    """
    best = run.summary.get("best_checkpoint") if run.config.get("test_best", True) else None
    folder = run.summary.get("checkpoint_dir")
    found = best or (newest_checkpoint(Path(folder)) if folder else None)
    if found is None and not folder:
        raise UserError(f"{run.folder} is an evaluation, without a checkpoint: give the folder of the run")
    if found is None or not Path(found).is_file():
        raise UserError(f"{run.folder}: its checkpoint is missing ({found}): leave this run out")
    return Path(found)


def predict(runs: Sequence[Run], name: str) -> Predicted:
    """Predict the held-out fold of runs with the mean of the checkpoints that their tests measured.

    Raises:
        UserError: a checkpoint is missing, or they cannot be averaged.
    """
    found = [tested_checkpoint(run) for run in runs]
    register_checkpoint_data([f"ckpt=[{','.join(quoted(str(path)) for path in found)}]"])
    words = [quoted(literal(str(path))) for path in found]
    cfg = compose_run("outputs", f"ckpt=[{','.join(words)}]", config="evaluate")
    evaluated = open_models(cfg)["checkpoint"]
    fit = DecisionFit(evaluated.model)
    for batch in evaluated.data.test_dataloader():
        fit.update(batch)
    return Predicted(name, runs, found, evaluated, fit)


def compare(
    variant: Variant, predicted: Sequence[Predicted], rules: Mapping[str, Decision], folder: Path
) -> Group:
    """Measure every rule on every fold, fitted on the other folds; write the runs.

    Returns:
        A table, and the fitted numbers, to be printed.
    """
    table = Table(title=variant.name)
    for column in (
        "decision",
        "instance IoU",
        "crowded",
        "overlapping",
        "shared pixels",
        "score error",
    ):
        table.add_column(column, justify="left" if column == "decision" else "right")
    fitted = list[Text]()
    overlapping = np.concatenate([one.fit.overlapping() for one in predicted])
    for name, rule in track(list(rules.items()), f"fitting {variant.name}"):
        records, shared, numbers = list[InstanceRecord](), 0, list[str]()
        for one in predicted:
            others = [other.fit for other in predicted if other.runs[0].fold != one.runs[0].fold]
            decision = fit_decision(rule, others)
            masks = one.fit.masks(decision)
            own = measure_instances(masks)
            write_run(folder / name / one.name, name, one, own)
            records += own
            shared += shared_pixels(masks)
            numbers += [numbers_of(decision, rule)]
        values = np.array([record.iou for record in records])
        crowded = np.array([record.non_target_share > CROWDED for record in records])
        means = (f"{values[chosen].mean():.4f}" if chosen.any() else "" for chosen in (crowded, overlapping))
        error = calibration_error([record.mask_score for record in records], values)
        cells = [
            f"{values.mean():.4f}",
            *means,
            f"{shared:,}",
            f"{error:.4f}",
        ]
        table.add_row(name, *cells)
        if rule.unfitted:
            fitted.append(Text(f"{name}, fitted on the other folds: {'; '.join(dict.fromkeys(numbers))}"))
    table.caption = (
        f"{len(values)} ROIs, {crowded.sum()} crowded, {overlapping.sum()} with overlapping boxes; "
        "score error: calibration error of the mask scores"
    )
    return Group(table, *fitted)


def numbers_of(decision: Decision, rule: Decision) -> str:
    """Return the fitted numbers of a decision, such as "weight 0.4, bias 0.3"."""
    return ", ".join(f"{name} {getattr(decision, name):g}" for name in rule.unfitted)


def write_run(folder: Path, rule: str, one: Predicted, records: Sequence[InstanceRecord]) -> None:
    """Write the results of a rule as a run that `python -m roiseg.report` reads."""
    write_table(folder / "instances.csv", records)
    trained = one.evaluated.trained
    assert trained is not None
    config = {**trained.config, "decision": {"rule": rule}}
    summary = {**one.runs[0].summary, "seed": config.get("seed")}
    summary["test"] = {"test/instance_iou": float(np.mean([record.iou for record in records]))}
    summary["parameters"] = parameter_counts(trained.decoder)
    summary["seconds"] = sum(run.summary["seconds"] for run in one.runs)
    ensemble = [f"ensemble={len(one.runs)}"] if len(one.runs) > 1 else []
    summary["overrides"] = [*summary.get("overrides", []), *ensemble, f"decision={rule}"]
    write_as_run(folder, config, summary)


def write_copies(one: Predicted, decision: Decision, folder: Path) -> None:
    """Write copies of the checkpoints with another decision; those of an ensemble in folders 1, 2, ..."""
    several = len(one.checkpoints) > 1
    for number, checkpoint in enumerate(one.checkpoints, 1):
        copy = (folder / str(number) if several else folder) / checkpoint.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, copy)
        write_decision(copy, decision)


@command("decide", words="runs")
def main(cfg: DictConfig) -> None:
    """Compare and fit decisions."""
    if not cfg.runs:
        raise UserError("give one or more folders of runs: python -m roiseg.decide outputs/sweeps/NAME")
    decide(cfg)


if __name__ == "__main__":
    main()
