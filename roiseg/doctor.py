"""`python -m roiseg.doctor [any override of training]`: check the setup; compare decoders or tensors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt
from rich.table import Table

from roiseg.common.console import console
from roiseg.common.files import write_json
from roiseg.common.outputs import check_output
from roiseg.config import build
from roiseg.config.entry import command
from roiseg.config.lightning_messages import silence_lightning_warnings
from roiseg.config.validation import TrainOptions, check_types, validated
from roiseg.diagnosis.decoder_costs import cost_table, decoder_costs, figures_of_runs
from roiseg.diagnosis.detector import inputs_and_outputs, overview, rehearse, tensor_table
from roiseg.diagnosis.files import data_sets, input_files, output_folders, use_shipped_detector
from roiseg.diagnosis.finding import Diagnosis
from roiseg.diagnosis.machine import devices, packages, runtime
from roiseg.diagnosis.scout import probe_table, rank_correlation, scout, trained_ious
from roiseg.extractor.graph import load_onnx
from roiseg.extractor.tensors import list_tensors, select


class Options(TrainOptions):
    """Keys of conf/doctor.yaml."""

    tensors: str | int | None
    scout: PositiveInt | None
    decoders: str | list[str] | None
    runs: str | None
    device: str | None
    output: str | None


def examine(cfg: DictConfig) -> tuple[Diagnosis, Table | None]:
    """Check everything a training with this configuration needs.

    Returns:
        The report, and a table of the detector's tensors if the file exists.
    """
    report = Diagnosis()
    report.add(*packages())
    with report.guard("configuration"):
        validated(cfg, Options)
    valid, tensors, extractor = report.can_start, None, None
    files = [*input_files(cfg)] if valid else []
    with report.guard("detector"):  # also where its layers are not chosen yet
        use_shipped_detector(cfg)
        tensors = detector(cfg, report)
    if not valid:  # nothing below can be trusted to have the right type
        return report, tensors
    report.add(*devices(cfg.data.num_workers, cfg.trainer.accelerator, cfg.trainer.precision))
    report.add(*files, *output_folders(cfg))
    if tensors is not None:
        with report.guard("extractor"):
            extractor = build.build_extractor(cfg)
    report.add(*runtime(cfg.extractor.providers, extractor.providers if extractor else None))
    with_data = data_sets(cfg, report)
    if extractor is not None:
        with silence_lightning_warnings():
            rehearse(cfg, extractor, with_data and report.can_start, report)
    return report, tensors


def detector(cfg: DictConfig, report: Diagnosis) -> Table | None:
    """Report the detector's inputs and outputs, and list the tensors that are chosen or asked for.

    Returns:
        The table; None if the file is missing, which `input_files` reports.
    """
    path = OmegaConf.select(cfg, "extractor.onnx_path")
    if path is None or not Path(path).is_file():
        return None
    check_types(build.to_plain(cfg.extractor.preprocess), "extractor.preprocess")
    model = load_onnx(path)
    report.add(*inputs_and_outputs(model))
    tensors = list_tensors(model, instantiate(cfg.extractor.preprocess, _convert_="all").image_size, path)
    report.add(overview(tensors))
    layers = OmegaConf.select(cfg, "extractor.layers") or []
    chosen = [str(layer) for layer in ([layers] if isinstance(layers, (str, int)) else layers)]
    names = set(chosen)
    if cfg.tensors is not None:
        with report.guard("tensors", state="warning"):
            names.update(tensor.name for tensor in select(tensors, str(cfg.tensors)))
    return tensor_table([tensor for tensor in tensors if tensor.name in names], chosen)


def compare_decoders(cfg: DictConfig) -> None:
    """Measure decoders, show a table, and write it where that is asked for."""
    validated(cfg, Options)
    figures = figures_of_runs(cfg.runs) if cfg.runs else {}
    costs, rejected = decoder_costs(cfg)
    console.print(cost_table(cfg, costs, figures))
    for name, reason in rejected.items():
        console.print(f"{name}: not built ({reason})")
    if cfg.output:
        write_json(cfg.output, {name: asdict(value) for name, value in costs.items()})


def compare_tensors(cfg: DictConfig) -> None:
    """Rank tensors of the detector, show a table, and write it where that is asked for."""
    validated(cfg, Options)
    trained = trained_ious(cfg.runs, cfg.extractor.onnx_path) if cfg.runs else {}
    singles, combined = scout(cfg)
    console.print(probe_table(singles, combined, trained))
    if found := rank_correlation((*singles, *combined), trained):
        console.print(
            "rank correlation of probe and training: {1:.2f} ({0} choices of tensors)".format(*found)
        )
    if cfg.output:
        write_json(cfg.output, [asdict(one) for one in (*singles, *combined)])


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Show what was found; exit code 2 if training could not start."""
    if cfg.output:
        check_output(cfg.output)
    if cfg.decoders:
        return compare_decoders(cfg)
    if cfg.scout is not None:
        return compare_tensors(cfg)
    report, tensors = examine(cfg)
    if tensors is not None:
        console.print(tensors)
    report.show()
    if cfg.output:
        write_json(cfg.output, report.content())
    if not report.can_start:
        console.print("training cannot start: fix the lines marked error", style="bold red")
        raise SystemExit(2)
    console.print("training could start", style="bold green")


if __name__ == "__main__":
    main()
