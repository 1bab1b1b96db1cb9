"""A training run in parts, composed as by `python -m roiseg.train`, to time the parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from roiseg.config import build
from roiseg.config.compose import compose_run
from roiseg.config.lightning_messages import silence_lightning_warnings
from roiseg.data.batch import RoiBatch
from roiseg.data.datamodule import RoiDataModule
from roiseg.extractor.onnx_extractor import OnnxExtractor
from roiseg.training.module import RoiSegModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
REAL = ("experiment=coco128_yolox", "callbacks=[]", "logger=[]")


@dataclass
class Run:
    """What a configuration builds."""

    module: RoiSegModule
    data: RoiDataModule

    def train(self, folder: Path, callbacks: Sequence[L.Callback] = (), **options: Any) -> L.Trainer:
        """Train as the command does; `options` are Lightning's."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        settings = QUIET | {
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "gradient_clip_val": 5.0,
            "default_root_dir": str(folder),
        }
        trainer = L.Trainer(**(settings | options), callbacks=list(callbacks))
        with silence_lightning_warnings():
            trainer.fit(self.module, datamodule=self.data)
        return trainer

    def validate(self) -> dict[str, float]:
        """Metrics of the validation images."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        with silence_lightning_warnings():
            return dict(trainer.validate(self.module, datamodule=self.data, verbose=False)[0])


def configuration(folder: Path, *overrides: str) -> DictConfig:
    """Compose `train` with everything it writes inside `folder`."""
    return compose_run(folder / "out", f"paths.root_dir={folder}", *overrides)


def make_run(folder: Path, *overrides: str, extractor: OnnxExtractor | None = None) -> Run:
    """Build what `python -m roiseg.train <overrides>` would train, if given with this detector."""
    cfg = configuration(folder, *overrides)
    L.seed_everything(cfg.seed, verbose=False)
    extractor = extractor or build.build_extractor(cfg)
    decoder = build.build_decoder(cfg, extractor)
    data = build.build_datamodule(cfg, extractor, decoder)
    loss = build.build_loss(cfg, decoder, data)
    return Run(build.build_module(cfg, decoder, loss, None, {}), data)


def decoder_step(module: RoiSegModule) -> Callable[[RoiBatch], None]:
    """Forward, loss and backward of a batch in memory: what no loop can do without."""

    def step(batch: RoiBatch) -> None:
        module.zero_grad()
        total, _ = module.loss(module(batch), batch.targets)
        total.backward()

    return step


def extraction(data: RoiDataModule) -> Callable[[RoiBatch], None]:
    """The extractor's run on a batch's images."""

    @torch.no_grad()
    def run(batch: RoiBatch) -> None:
        data.extractor(batch.images)

    return run
