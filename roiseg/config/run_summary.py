"""The results of a run: `summary.json` for programs, and a table on the terminal."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import lightning
import onnx
import onnxruntime
import torch
from rich.table import Table

import roiseg
from roiseg.common.console import console, print_values
from roiseg.decoders.base import Decoder
from roiseg.metrics.registry import SHORT, labels

_COLUMNS = {"train/loss": "train loss", **labels("val")}
Epoch = dict[str, float]  # `epoch`, 1 the first, and metrics by their logged names


@dataclass
class RunSummary:
    """The content of `summary.json`: a finished run."""

    output_dir: str
    checkpoint_dir: str
    seed: int
    resumed_from: str | None  # the checkpoint it resumed from, if any
    test: dict[str, float]  # metrics of the test by their logged names; empty without one
    tested_best: bool  # the test measured the best epoch, not the last
    data: dict[str, int]  # numbers of images and ROIs by split
    skipped_images: dict[str, dict[str, Any]]  # number of skipped images and reasons, by stage
    extractor_sha256: str  # of the detector's file
    feature_cache: dict[str, int] | None  # numbers of hits and misses; None without a cache
    parameters: dict[str, int]
    decision: dict[str, Any]  # how masks follow from probabilities, see `roiseg.inference.decision`
    versions: dict[str, str]
    choices: dict[str, Any]
    overrides: list[str]
    monitor: str = "val/miou"  # the metric that selects the best epoch; not in the file
    history: list[Epoch] = field(default_factory=list)  # one dict per epoch, in order
    # files, if written
    best_checkpoint: str | None = None
    last_overlay: str | None = None
    onnx: str | None = None
    onnx_check: dict[str, Any] | None = None  # difference of the ONNX file from PyTorch
    # what it was fitted on; None: its numbers were given, or there was nothing to fit it on
    decision_fit: str | None = None
    seconds: float = 0.0

    @property
    def final(self) -> Epoch:
        """Return the metrics of the last epoch."""
        return _metrics(self.history[-1]) if self.history else {}

    @property
    def best(self) -> Epoch:
        """Return the metrics of the best epoch; empty if the monitored metric was never measured."""
        return _metrics(self._best)

    @property
    def best_epoch(self) -> int | None:
        """Return the number of the best epoch."""
        return int(self._best["epoch"]) if self._best else None

    @property
    def tested_epoch(self) -> int | None:
        """Return the number of the epoch that the test measured."""
        return self.best_epoch if self.tested_best else self.epochs

    @property
    def epochs(self) -> int:
        """Return the number of the last epoch; 0 without any."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    @property
    def _best(self) -> Epoch:
        measured = [epoch for epoch in self.history if self.monitor in epoch]
        return max(measured, key=lambda epoch: epoch[self.monitor]) if measured else {}

    def content(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        derived = ("final", "best", "best_epoch", "tested_epoch")
        own = [entry.name for entry in fields(self) if entry.name not in ("monitor", "tested_best")]
        return {name: getattr(self, name) for name in (*derived, *own)} | {"epochs": self.epochs}


class SummaryCallback(ABC):
    """A Lightning callback that adds to the summary of its run."""

    @abstractmethod
    def add_to_summary(self, summary: RunSummary) -> None:
        """Set the fields that this callback knows."""


def _metrics(epoch: Epoch) -> Epoch:
    return {name: value for name, value in epoch.items() if name != "epoch"}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {
        "roiseg": roiseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def parameter_counts(decoder: Decoder) -> dict[str, int]:
    """Count the decoder's parameters."""
    counts = {True: 0, False: 0}
    for parameter in decoder.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return {"total": sum(counts.values()), "trainable": counts[True], "frozen": counts[False]}


def print_summary(summary: RunSummary) -> None:
    """Print the metrics of the epochs, and where the files are."""
    epochs = summary.history
    if epochs:
        table = Table(title="epochs", caption=f"best mIoU in epoch {summary.best_epoch}")
        table.add_column("epoch", justify="right")
        shown = {key: name for key, name in _COLUMNS.items() if any(key in epoch for epoch in epochs)}
        for name in shown.values():
            table.add_column(name, justify="right", width=max(6, *map(len, name.split())))
        for epoch in epochs:
            style = "bold green" if epoch["epoch"] == summary.best_epoch else None
            cells = [f"{epoch[key]:.4f}" if key in epoch else "" for key in shown]
            table.add_row(str(int(epoch["epoch"])), *cells, style=style)
        console.print(table)
    print_values(_places(summary))


def _decision(summary: RunSummary) -> str:
    values = {name: value for name, value in summary.decision.items() if name != "_target_"}
    kind = summary.decision["_target_"].rpartition(".")[2].lower()
    numbers = (f"{name} {value}" for name, value in sorted(values.items()) if value not in (None, False))
    missing = [name for name, value in values.items() if value is None and not name.startswith("score_")]
    fitted = "not fitted" if missing else summary.decision_fit
    return ", ".join(filter(None, (kind, *numbers, fitted)))


def _places(summary: RunSummary) -> dict[str, str]:
    """Return what is printed below the table, by name."""
    test = ", ".join(
        f"{label} {summary.test[key]:.4f}"
        for key, label in labels("test", SHORT).items()
        if key in summary.test
    )
    parity = None
    if check := summary.onnx_check:
        worst = max(check["random"], check["real"] or 0.0)
        parity = f"differs from PyTorch by {worst:.1e} (allowed {check['tolerance']:.0e})"
    data, parameters = summary.data, summary.parameters
    rows = {
        f"epoch {summary.tested_epoch}, measured again": test,
        "checkpoints": summary.checkpoint_dir,
        "best checkpoint": summary.best_checkpoint,
        "overlay images": summary.last_overlay,
        "TensorBoard": f"tensorboard --logdir {summary.output_dir}",
        "ONNX": summary.onnx,
        "ONNX check": parity,
        "summary": str(Path(summary.output_dir) / "summary.json"),
        "decision": _decision(summary),
        "decoder": f"{parameters['trainable']:,} trainable parameters",
        "data": f"train {data['train_images']} images, {data['train_rois']} ROIs; "
        f"val {data['val_images']} images, {data['val_rois']} ROIs",
        "time": f"{summary.seconds:.0f} s for {summary.epochs} epochs",
    }
    if summary.feature_cache:
        counts = (f"{number:,} {name}" for name, number in summary.feature_cache.items())
        rows["feature cache, images"] = ", ".join(counts)
    return {name: value or "none" for name, value in rows.items()}
