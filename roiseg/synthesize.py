"""Command: draw the synthetic data set."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.table import Table

from roiseg.common.console import console
from roiseg.common.files import read_json
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.synthetic import SyntheticPeople


@command("synthesize")
def main(cfg: DictConfig) -> SyntheticPeople:
    """Make the data set unless it is there, and say what it holds."""
    validated(cfg, SyntheticPeople)
    data = SyntheticPeople(cfg.root, cfg.train_images, cfg.val_images, cfg.seed)
    data.ensure()
    table = Table("split", "images", "persons", "persons per image", "annotations")
    for split in ("train", "val"):
        path = data.annotation_file(split)
        content = read_json(path, "synthetic annotations")
        images, persons = len(content["images"]), len(content["annotations"])
        table.add_row(split, str(images), str(persons), f"{persons / images:.2f}", str(path))
    console.print(table)
    return data


if __name__ == "__main__":
    main()
