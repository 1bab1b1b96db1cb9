"""Compare decoders: their cost on the detector's tensors, and test figures of a folder of runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from roiseg.common.console import track
from roiseg.common.errors import UserError, require_choice
from roiseg.config import build
from roiseg.config.build import require_device
from roiseg.config.entry import CONF_DIR, user_message
from roiseg.decoders.base import Context, Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.metrics.registry import labels
from roiseg.reporting.runs import read_summary, run_folders

_ROIS, _REPEATS = 8, 5


@dataclass(frozen=True)
class Cost:
    """Cost of a decoder in evaluation.

    All for 8 ROIs on one image, a third of it high: what a decoder does once per image may depend on how many
    there are, and RoIAlign on a CPU on their size.
    """

    parameters: int
    image_macs: int  # multiply-accumulates per image, independent of the number of ROIs
    roi_macs: int  # multiply-accumulates per additional ROI
    roi_ms: float  # milliseconds per ROI, median of 5 runs


def measure_cost(decoder: Decoder, feature_shapes: Sequence[tuple[int, int, int]]) -> Cost:
    """Measure a decoder on its device, with random features and ROIs of one image.

    Counted are matrix products, convolutions and attention (torch's FlopCounterMode, two operations per
    multiply-accumulate); element-wise work is not.

    Args:
        decoder: any decoder; put into evaluation mode.
        feature_shapes: (C, H, W) of each layer.
    """
    decoder.eval()
    device = next(decoder.parameters()).device
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn((1, *shape), generator=generator).to(device) for shape in feature_shapes]
    context = Context(torch.rand(1, 3, *decoder.image_size).to(device), torch.ones(1, device=device))
    macs, more = (_macs(decoder, features, _rois(decoder, n).to(device), context) for n in (_ROIS, _ROIS + 1))
    return Cost(
        parameters=sum(p.numel() for p in decoder.parameters()),
        image_macs=macs - _ROIS * (more - macs),
        roi_macs=more - macs,
        roi_ms=_milliseconds(decoder, features, _rois(decoder, _ROIS).to(device), context) / _ROIS,
    )


def _rois(decoder: Decoder, count: int) -> Tensor:
    """Return ROIs [count, 5] with the shape of a person, a third of the input high, all at the same place."""
    height, width = decoder.image_size
    roi = torch.tensor([[0, 0.4 * width, 0.3 * height, 0.4 * width + width / 6, 0.3 * height + height / 3]])
    return roi.expand(count, 5)


def _macs(decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder(features, rois, context)
    return counter.get_total_flops() // 2


def _milliseconds(decoder: Decoder, features: Sequence[Tensor], rois: Tensor, context: Context) -> float:
    times = []
    with torch.no_grad():
        for _ in range(_REPEATS + 1):  # the first one warms up
            _wait(rois.device)
            start = time.perf_counter()
            decoder(features, rois, context)
            _wait(rois.device)
            times.append(1e3 * (time.perf_counter() - start))
    return median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_OWN = (
    "decoders",
    "tensors",
    "output",
    "device",
    "runs",
)  # the doctor's keys; all others are for the decoders
_METRICS = labels("test")


def decoder_costs(cfg: DictConfig) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure decoders; returns their costs, and why the others cannot be built on these features."""
    names, device = _chosen(cfg), require_device(cfg.device)
    extractor = build.build_extractor(cfg)
    overrides = [o for o in _overrides() if o.lstrip("+").split("=")[0] not in (*_OWN, "model")]
    costs: dict[str, Cost] = {}
    rejected: dict[str, str] = {}
    for name in track(names, "decoders"):
        try:
            costs[name] = _cost(name, overrides, extractor, device)
        except Exception as error:
            if (line := user_message(error)) is None:
                raise
            rejected[name] = line
    if not costs:
        raise UserError(f"none of these decoders can be built: {next(iter(rejected.values()))}")
    return costs, rejected


def cost_table(cfg: DictConfig, costs: Mapping[str, Cost], figures: Mapping[str, dict[str, float]]) -> Table:
    """Lay out costs, and test figures of runs by model, if any."""
    table = Table(title=f"decoders on {', '.join(map(str, cfg.extractor.layers))}")
    metrics = _METRICS if figures else {}
    for column in (
        "model",
        "parameters",
        "GMACs per image",
        "GMACs per ROI",
        "ms per ROI",
        *metrics.values(),
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, value in costs.items():
        reached = figures.get(name, {})
        table.add_row(
            name,
            f"{value.parameters:,}",
            f"{value.image_macs / 1e9:.3f}",
            f"{value.roi_macs / 1e9:.3f}",
            f"{value.roi_ms:.2f}",
            *(f"{reached[key]:.3f}" if key in reached else "" for key in metrics),
        )
    return table


def figures_of_runs(folder: str | Path) -> dict[str, dict[str, float]]:
    """Read the test figures of the runs in a folder (`summary.json`, at any depth), by model.

    Raises:
        UserError: the folder or a finished run is missing, or two runs have the same model.
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


def _chosen(cfg: DictConfig) -> list[str]:
    """Return the choices of `model=` that `decoders` names."""
    known = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
    names = list(cfg.decoders) if isinstance(cfg.decoders, ListConfig) else [cfg.decoders]
    if names == ["all"]:
        return known
    for name in names:
        require_choice("decoders", str(name), known)
    return names


def _cost(name: str, overrides: list[str], extractor: OnnxExtractor, device: torch.device) -> Cost:
    node = compose("train", [f"model={name}", *overrides])
    return measure_cost(build.build_decoder(node, extractor).to(device), extractor.shapes)


def _overrides() -> list[str]:
    """Return the overrides of the command line, including folders of further configuration."""
    given = HydraConfig.get().overrides
    return [*(o for o in given.hydra if o.startswith("hydra.searchpath=")), *given.task]
