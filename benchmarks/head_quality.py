"""Quality of the reference head and of `roialign` at 28x28 to 112x112 after the same number of steps.

`python -m benchmarks.head_quality [STEPS [ROIS]]`; 150 steps of 8 ROIs take the reference head minutes, so
`python -m benchmarks` leaves it out. Both train in the product's own loop on the real images and YOLOX-Nano's
tensor `931`, from the same seed, on the same ROIs in the same order, with the same recipe, in bfloat16;
features are extracted once and kept in memory.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from benchmarks.reference_head import ReferenceHead
from benchmarks.report import show
from benchmarks.training import QUIET, REAL, configuration
from roiseg.config import build
from roiseg.config.lightning_messages import silence_lightning_warnings
from roiseg.data.batch import RoiBatch
from roiseg.data.datamodule import RoiDataModule
from roiseg.decoders.base import Decoder
from roiseg.extractor.onnx_extractor import OnnxExtractor

STEPS, ROIS, IMAGES = 150, 8, 2  # ROIs and images per step
OPTIONS = (
    *REAL,
    "model.roi_size=[28,28]",
    "model.output_size=[112,112]",
    f"data.batch_size={IMAGES}",
    "data.num_workers=0",
)


@dataclass(frozen=True)
class Result:
    """The result of a head."""

    batches: list[RoiBatch]
    metrics: dict[str, float]
    seconds: float

    @property
    def speed(self) -> float:
        """Return the trained ROIs per second."""
        return sum(len(batch.rois) for batch in self.batches) / self.seconds


def settings(folder: Path, rois: int) -> DictConfig:
    """Return the configuration of both runs."""
    return configuration(folder, *OPTIONS, f"data.sampler.rois_per_image={rois // IMAGES}")


def batches(data: RoiDataModule, steps: int) -> list[RoiBatch]:
    """Return the first training batches, with their features and without images."""
    found: list[RoiBatch] = []
    loader = data.train_dataloader()
    assert isinstance(loader, DataLoader)
    for epoch in range(steps):
        if len(found) >= steps:
            break
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found += [replace(batch, images=batch.images[:0], inputs=None) for batch in loader]
    return found[:steps]


def train(cfg: DictConfig, extractor: OnnxExtractor, decoder: Decoder, steps: int) -> Result:
    """Train a head and measure it on the validation images."""
    L.seed_everything(cfg.seed, verbose=False)
    data = build.build_datamodule(cfg, extractor, decoder)
    given, held_out = batches(data, steps), list(data.val_dataloader())
    module = build.build_module(cfg, decoder, build.build_loss(cfg, decoder, data), None, {})
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with silence_lightning_warnings():
        trainer = L.Trainer(
            **(QUIET | {"enable_progress_bar": True}),
            precision="bf16-mixed",
            max_epochs=1,
            gradient_clip_val=cfg.trainer.gradient_clip_val,
        )
        started = time.perf_counter()
        trainer.fit(module, _as_they_are(given))
        seconds = time.perf_counter() - started
        (metrics,) = trainer.validate(module, _as_they_are(held_out), verbose=False)
    return Result(given, dict(metrics), seconds)


def _as_they_are(given: Sequence[RoiBatch]) -> DataLoader:
    return DataLoader(given, batch_size=None, collate_fn=_same)  # type: ignore[arg-type]


def _same(batch: RoiBatch) -> RoiBatch:
    return batch


def compare(folder: Path, steps: int, rois: int) -> dict[str, tuple[Decoder, Result]]:
    """Train both."""
    cfg = settings(folder, rois)
    extractor = build.build_extractor(cfg)
    torch.manual_seed(cfg.seed)
    heads: dict[str, Decoder] = {
        "reference 28 to 56": ReferenceHead(extractor.channels, extractor.strides, (416, 416)),
        "roialign 28 to 112": build.build_decoder(cfg, extractor),
    }
    results = {name: (head, train(cfg, extractor, head, steps)) for name, head in heads.items()}
    (_, one), (_, other) = results.values()
    pairs = zip(one.batches, other.batches, strict=True)
    assert all(torch.equal(a.rois, b.rois) for a, b in pairs), "the heads were trained on different ROIs"
    return results


def main() -> None:
    """Train both and show the results."""
    steps, rois = (int(n) for n in (*sys.argv[1:], *(str(STEPS), str(ROIS))[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        results = compare(Path(folder), steps, rois)
    rows = [
        [
            name,
            f"{sum(p.numel() for p in head.parameters()) / 1e6:.2f} M",
            *(
                f"{result.metrics[f'val/{key}']:.3f}"
                for key in ("target_iou", "instance_iou", "boundary_iou")
            ),
            f"{result.seconds:.0f}",
            f"{result.speed:.1f}",
        ]
        for name, (head, result) in results.items()
    ]
    columns = ["", "param.", "target IoU", "instance IoU", "boundary IoU", "seconds", "ROI/s"]
    show(f"{steps} steps of {rois} ROIs, bfloat16", columns, rows)


if __name__ == "__main__":
    main()
