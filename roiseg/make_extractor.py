"""`python -m roiseg.make_extractor`: train the embedded extractor on drawn people and write it as ONNX."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from roiseg.common.console import console
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.synthetic.detector_training import TinyDetector


@command("make_extractor")
def main(cfg: DictConfig) -> Path:
    """Draw images, train, export; returns the ONNX file."""
    validated(cfg, TinyDetector)
    detector = TinyDetector(
        cfg.output,
        cfg.images,
        cfg.steps,
        cfg.batch_size,
        cfg.lr,
        cfg.seed,
        cfg.device,
        cfg.bfloat16,
        cfg.threads,
    )
    path = detector.make()
    console.print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return path


if __name__ == "__main__":
    main()
