"""`python -m roiseg.models`: what every decoder costs, and what it reached in a folder of runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.table import Table

from roiseg.common.console import console, track
from roiseg.common.errors import UserError, closest_matches
from roiseg.common.files import write_json
from roiseg.common.outputs import check_output
from roiseg.config import build
from roiseg.config.device import require_device
from roiseg.config.entry import CONF_DIR, command, user_message
from roiseg.config.validation import TrainOptions, validated
from roiseg.decoders.cost import Cost, measure_cost
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.metrics.registry import labels
from roiseg.reporting.runs import read_summary, run_folders

_OWN = ("models", "output", "device", "runs")  # keys of this command; all others are for the decoders
_METRICS = labels("test")


class Options(TrainOptions):
    """Keys of conf/models.yaml."""

    models: list[str] | None
    device: str | None
    runs: str | None
    output: str | None


def models(cfg: DictConfig) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure decoders; returns their costs, and why the others cannot be built on these features."""
    validated(cfg, Options)
    names, device = chosen(cfg), require_device(cfg.device)
    extractor = build.build_extractor(cfg)
    overrides = [o for o in _overrides() if o.lstrip("+").split("=")[0] not in (*_OWN, "model")]
    costs: dict[str, Cost] = {}
    refused: dict[str, str] = {}
    for name in track(names, "decoders"):
        try:
            costs[name] = cost(name, overrides, extractor, device)
        except Exception as error:
            if (line := user_message(error)) is None:
                raise
            refused[name] = line
    if not costs:
        raise UserError(f"none of these decoders can be built: {next(iter(refused.values()))}")
    if cfg.output:
        write_json(Path(cfg.output), {name: asdict(value) for name, value in costs.items()})
    return costs, refused


def chosen(cfg: DictConfig) -> list[str]:
    """The choices of `model=` to measure: `models`, or all there are."""
    known = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
    for name in cfg.models or ():
        if name not in known:
            close = ", ".join(closest_matches(str(name), known))
            raise UserError(f"models: there is no model `{name}` (nearest: {close}; all: {', '.join(known)})")
    return list(cfg.models or known)


def cost(name: str, overrides: list[str], extractor: OnnxExtractor, device: torch.device) -> Cost:
    """Cost of one choice of `model=` on the extractor's features."""
    node = compose("train", [f"model={name}", *overrides])
    return measure_cost(build.build_decoder(node, extractor).to(device), extractor.shapes)


def _overrides() -> list[str]:
    """What the command line asks for, folders of further configuration included."""
    given = HydraConfig.get().overrides
    return [*(o for o in given.hydra if o.startswith("hydra.searchpath=")), *given.task]


def reached(folder: str | Path) -> dict[str, dict[str, float]]:
    """The test figures of the runs in a folder (`summary.json`, at any depth), by model.

    Raises:
        UserError: no such folder, no run in it, or two runs of one model.
    """
    found: dict[str, dict[str, float]] = {}
    for path in (run / "summary.json" for run in run_folders([folder])):
        if not path.is_file():  # unfinished
            continue
        summary = read_summary(path)
        name = summary.get("choices", {}).get("model")
        if name in found:
            raise UserError(
                f"{path} is another run of model={name} in {folder}: give the folder of one sweep"
            )
        if name is not None:
            found[name] = summary["test"]
    if not found:
        raise UserError(f"there is no finished run (summary.json) in {folder}: set runs to a sweep's folder")
    return found


@command("models")
def main(cfg: DictConfig) -> None:
    """Measure, and show a table."""
    if cfg.output:
        check_output(cfg.output)
    figures = reached(cfg.runs) if cfg.runs else {}
    costs, refused = models(cfg)
    table = Table(title=f"decoders on {', '.join(map(str, cfg.extractor.layers))}")
    metrics = _METRICS if figures else {}
    for column in ("model", "parameters", "GMACs an image", "GMACs a ROI", "ms a ROI", *metrics.values()):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, value in costs.items():
        measured = figures.get(name, {})
        table.add_row(
            name,
            f"{value.parameters:,}",
            f"{value.image_macs / 1e9:.3f}",
            f"{value.roi_macs / 1e9:.3f}",
            f"{value.roi_ms:.2f}",
            *(f"{measured[key]:.3f}" if key in measured else "" for key in metrics),
        )
    console.print(table)
    for name, reason in refused.items():
        console.print(f"{name}: not built ({reason})")


if __name__ == "__main__":
    main()
