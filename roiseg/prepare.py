"""`python -m roiseg.prepare`: images and person annotations of COCO 2017, as training reads them."""

from __future__ import annotations

from omegaconf import DictConfig

from roiseg.common.console import console
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.data.prepare.build import prepare
from roiseg.data.prepare.persons import table


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Prepare the data set, and print what it holds."""
    prepared = prepare(**validated(cfg, prepare))
    for path in prepared.made:
        console.print(f"made {path}", soft_wrap=True)
    if not prepared.made:
        console.print(f"already there: everything in {cfg.output_dir} is complete", soft_wrap=True)
    console.print(table(prepared.reports))


if __name__ == "__main__":
    main()
