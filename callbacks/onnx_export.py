"""ONNX export of the best checkpoint when training ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L

from roiseg.callbacks.checkpoints import tested_checkpoint
from roiseg.config.run_summary import RunSummary, SummaryCallback
from roiseg.data.datamodule import RoiDataModule
from roiseg.inference.checkpoint import load_model
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.verify import OnnxCheck

log = logging.getLogger(__name__)

_CHECK_IMAGES = 3


class OnnxExport(L.Callback, SummaryCallback):
    """Exports and verifies the best checkpoint after the last epoch; a parity failure fails the run.

    Args:
        output_dir: folder of the file; its name is that of the checkpoint.
        best: export the best checkpoint; False: the newest.

    Attributes:
        path: the file, after the export.
        check: its largest difference from PyTorch, on random input and on real ROIs.
    """

    def __init__(
        self,
        output_dir: str | Path,
        merged: bool = False,
        half: bool = False,
        opset: int = 18,
        best: bool = True,
        simplify: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.best = best
        self.options = ExportOptions(merged, half, opset, simplify=simplify)
        self.path: Path | None = None
        self.check: OnnxCheck | None = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Export on the first process if there is a checkpoint."""
        checkpoint = tested_checkpoint(trainer.checkpoint_callback, self.best)
        if checkpoint is None or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RoiDataModule)
        model = load_model(checkpoint)
        path = self.output_dir / f"{checkpoint.stem}.onnx"
        items = range(min(_CHECK_IMAGES, len(data.dataset("val"))))
        self.check = export_model(model, path, self.options, data.extractor, data.samples("val", items))
        self.path = path
        largest = max(self.check.random, self.check.real or 0)
        log.info("ONNX: exported, largest difference from PyTorch %.1e", largest)

    def add_to_summary(self, summary: RunSummary) -> None:
        """Set the file and its largest difference from PyTorch."""
        summary.onnx = str(self.path) if self.path else None
        summary.onnx_check = self.check.summary() if self.check else None
