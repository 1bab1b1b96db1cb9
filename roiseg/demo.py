"""`python -m roiseg.demo`: make the embedded data set and the embedded detector."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt
from rich.table import Table

from roiseg.common.console import console, print_values
from roiseg.common.files import read_json
from roiseg.common.outputs import check_folder, check_output, never
from roiseg.common.package_files import ShippedFile
from roiseg.common.types import Share
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.synthetic import SyntheticPeople


def synthetic_people(cfg: DictConfig) -> SyntheticPeople:
    """Return the data set that the configuration describes."""
    return SyntheticPeople(cfg.root, cfg.train_images, cfg.val_images, cfg.seed, cfg.crowding)


def make_data(cfg: DictConfig) -> SyntheticPeople:
    """Create the data set if it is missing, and print its content."""
    data = synthetic_people(cfg)
    data.ensure()
    table = Table("split", "images", "persons", "persons per image")
    for split in ("train", "val"):
        path = data.annotation_file(split)
        content = read_json(path, "synthetic annotations")
        images, persons = len(content["images"]), len(content["annotations"])
        table.add_row(split, str(images), str(persons), f"{persons / images:.2f}")
    console.print(table)
    print_values({f"{split} annotations": data.annotation_file(split) for split in ("train", "val")})
    return data


def make_detector(cfg: DictConfig) -> Path:
    """Copy the detector if it is missing; returns the ONNX file."""
    kept = Path(cfg.output).exists()
    path = ShippedFile(cfg.output, "ext_extractor/tiny_person_256.onnx").ensure()
    console.print(f"{path}: {path.stat().st_size / 1000:.0f} kB{', left as it was' if kept else ''}")
    return path


class Options(TypedDict):
    """Keys of conf/demo.yaml."""

    make: list[Literal["data", "detector"]]
    seed: NonNegativeInt
    crowding: Share
    root: str
    train_images: PositiveInt
    val_images: PositiveInt
    output: str


_PARTS = {"data": make_data, "detector": make_detector}


@command("demo")
def main(cfg: DictConfig) -> None:
    """Create the requested parts."""
    validated(cfg, Options)
    if "detector" in cfg.make:
        check_folder(Path(cfg.output).parent, f"output {cfg.output}: folder")
        if not Path(cfg.output).is_file():
            check_output(cfg.output, never)
    if "data" in cfg.make:
        synthetic_people(cfg).check()
    for part in cfg.make:
        _PARTS[part](cfg)


if __name__ == "__main__":
    main()
