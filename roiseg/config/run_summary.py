"""What a run leaves for people (a summary on the terminal) and for programs (summary.json)."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import onnx
import onnxruntime
import torch
from rich.table import Table

import roiseg
from roiseg.common.console import console
from roiseg.decoders.base import Decoder
from roiseg.metrics.registry import SHORT, labels

_COLUMNS = {"train/loss": "train loss", **labels("val")}


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "roiseg": roiseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def parameter_counts(decoder: Decoder) -> dict[str, int]:
    """Numbers of the decoder's parameters."""
    counts = {True: 0, False: 0}
    for parameter in decoder.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return {"total": sum(counts.values()), "trainable": counts[True], "frozen": counts[False]}


def best_epoch(epochs: Sequence[dict[str, float]], metric: str) -> dict[str, float]:
    """The epoch in which `metric` was highest; empty if it was never measured."""
    measured = [epoch for epoch in epochs if metric in epoch]
    return max(measured, key=lambda epoch: epoch[metric]) if measured else {}


def print_summary(summary: dict[str, Any]) -> None:
    """Show the epochs' figures, and where everything lies."""
    epochs = summary["history"]
    if epochs:
        table = Table(title="epochs", caption=f"best mIoU in epoch {summary['best_epoch']}")
        table.add_column("epoch", justify="right")
        shown = {key: name for key, name in _COLUMNS.items() if any(key in epoch for epoch in epochs)}
        for name in shown.values():
            table.add_column(name, justify="right")
        for epoch in epochs:
            style = "bold green" if epoch["epoch"] == summary["best_epoch"] else None
            cells = [f"{epoch[key]:.4f}" if key in epoch else "" for key in shown]
            table.add_row(str(int(epoch["epoch"])), *cells, style=style)
        console.print(table)
    console.print(_places(summary))


def _places(summary: dict[str, Any]) -> Table:
    places = Table(title="results", show_header=False)
    places.add_column(style="bold")
    places.add_column(overflow="fold")
    test = ", ".join(
        f"{label} {summary['test'][key]:.4f}"
        for key, label in labels("test", SHORT).items()
        if key in summary["test"]
    )
    onnx_file = summary["onnx"] or "none"
    if check := summary["onnx_check"]:
        worst = max(check["random"], check["real"] or 0.0)
        onnx_file += f"\nONNX Runtime differs from PyTorch by {worst:.1e} (allowed {check['tolerance']:.0e})"
    data, parameters = summary["data"], summary["parameters"]
    rows = {
        f"epoch {summary['tested_epoch']}, measured again": test,
        "checkpoints": summary["checkpoint_dir"],
        "best checkpoint": summary["best_checkpoint"],
        "overlay images": summary["last_overlay"],
        "TensorBoard": f"tensorboard --logdir {summary['output_dir']}",
        "ONNX": onnx_file,
        "summary": str(Path(summary["output_dir"]) / "summary.json"),
        "decoder": f"{parameters['trainable']:,} trainable parameters",
        "data": f"train {data['train_images']} images, {data['train_rois']} ROIs; "
        f"val {data['val_images']} images, {data['val_rois']} ROIs",
        "time": f"{summary['seconds']:.0f} s for {summary['epochs']} epochs",
    }
    if summary["feature_cache"]:
        counts = (f"{number:,} {name}" for name, number in summary["feature_cache"].items())
        rows["feature cache, images"] = ", ".join(counts)
    here = f"{Path.cwd()}/"
    for name, value in rows.items():
        places.add_row(name, (value or "none").replace(here, ""))
    return places
