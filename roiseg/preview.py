"""`python -m roiseg.preview`: a sheet of augmented training images with their ROIs and targets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.common.outputs import check_output
from roiseg.config import build
from roiseg.config.entry import command
from roiseg.config.validation import TrainOptions, validated
from roiseg.visualize.canvas import write_image
from roiseg.visualize.preview_sheet import PreviewSample, preview_sheet


class Options(TrainOptions):
    """Keys of conf/preview.yaml."""

    samples: Annotated[int, Field(ge=1, le=1000)]
    epoch: Annotated[int, Field(ge=0, le=10**9)]
    output: Annotated[str, Field(pattern=r"\.png$")] | None


def preview(cfg: DictConfig) -> Path:
    """Draw the first samples of an epoch as the trainer will see them; returns the image's path."""
    validated(cfg, Options)
    path = Path(cfg.output or Path(cfg.paths.output_dir) / "preview.png")
    check_output(path)
    extractor = build.build_extractor(cfg)
    decoder = build.build_decoder(cfg, extractor)
    dataset = build.build_datamodule(cfg, extractor, decoder).dataset("train")
    dataset.spec = dataset.spec.metric_spec()  # targets over each ROI, whatever the decoder's frame
    samples = (dataset[(cfg.epoch, item)] for item in range(len(dataset)))
    usable = itertools.islice((sample for sample in samples if not sample.skipped), cfg.samples)
    rows = [PreviewSample(sample.file_name, sample.image, sample.rois, sample.targets) for sample in usable]
    if not rows:
        raise UserError(f"no image of {cfg.data.train_images} can be shown: check samples and the images")
    return write_image(path, preview_sheet(rows))


@command("preview")
def main(cfg: DictConfig) -> None:
    """Draw the sheet, and print its path."""
    console.print(f"preview: {preview(cfg)}")


if __name__ == "__main__":
    main()
