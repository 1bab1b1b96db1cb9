"""`python -m roiseg.analyze`: class shares inside ROIs, overlap, sizes, and the class weights that follow."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field
from rich import box
from rich.table import Table

from roiseg.common.console import console, print_text
from roiseg.common.files import atomic_path, require_file
from roiseg.common.outputs import check_output
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.data.analysis import CLASSES, analysis_path, is_analysis, load_or_make_analysis
from roiseg.data.annotation_loading import AnnotationReader, load_annotations
from roiseg.visualize.plots import analysis_figure


class Options(TypedDict):
    """Keys of conf/analyze.yaml."""

    annotations: str | None
    reader: AnnotationReader
    category_id: int
    crowd: Literal["region", "instance"]
    min_roi_size: Annotated[float, Field(ge=1)]
    grid: Annotated[int, Field(ge=8, le=512)]
    output_dir: Annotated[str, Field(min_length=1)]
    index_dir: str | None


@command("analyze")
def main(cfg: DictConfig) -> dict[str, Any]:
    """Analyse the annotations, write json and plots, and show the figures."""
    validated(cfg, Options)
    hint = "give annotations=FILE, or create the default data set with `python -m roiseg.demo`"
    source = require_file(str(cfg.annotations or ""), "annotations", hint)
    path = analysis_path(cfg.output_dir, source)
    picture = path.with_suffix(".png")
    check_output(path, is_analysis), check_output(picture)
    annotations = load_annotations(source, cfg.category_id, cfg.index_dir, cfg.crowd, instantiate(cfg.reader))
    analysis = load_or_make_analysis(path, annotations, cfg.min_roi_size, cfg.grid)
    with atomic_path(picture) as temporary:
        analysis_figure(analysis).savefig(temporary)
    for table in tables(analysis):
        console.print(table)
    print_text(f"{path}\n{picture}")
    return analysis


def tables(analysis: dict[str, Any]) -> list[Table]:
    """Lay out the figures for the terminal: totals, shares by ROI size, class weights."""
    return [_totals(analysis), _shares(analysis), _weights(analysis["class_weights"])]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _totals(analysis: dict[str, Any]) -> Table:
    table = _table(analysis["source"], "what", "value")
    for name, count in analysis["totals"].items():
        table.add_row(name.replace("_", " ").replace("rois", "ROIs"), f"{count:,}")
    overlap, size = analysis["overlap"], analysis["roi_size"]
    table.add_row("ROIs with any non-target", f"{overlap['any_non_target']:.1%}")
    table.add_row("crowded ROIs (non-target above 10 %)", f"{overlap['crowded']:.1%}")
    table.add_row("median ROI, pixels", f"{size['width']['p50']:.0f} x {size['height']['p50']:.0f}")
    return table


def _shares(analysis: dict[str, Any]) -> Table:
    table = _table("pixels inside the ROIs", "ROIs", "number", *(name.replace("_", "-") for name in CLASSES))
    number = analysis["totals"]["rois"]
    rows = [("all alike", number, analysis["shares"])]
    rows.append(("all by area", number, analysis["area_weighted"]["shares"]))
    rows += [(f"{name} px", band["rois"], band["shares"]) for name, band in analysis["size_bands"].items()]
    for name, number, shares in rows:
        cells = [f"{shares[c]:.1%}" if number else "-" for c in CLASSES]
        table.add_row(name, f"{number:,}", *cells)
    return table


def _weights(weights: dict[str, dict[str, list[float]]]) -> Table:
    table = _table(
        "recommended class weights", "loss.class_weights", "classes", *list(CLASSES)[:2], "non-target"
    )
    for kind in ("log", "inverse"):
        for number in ("3", "2"):
            cells = [f"{weight:.3f}" for weight in weights[kind][number]]
            table.add_row(kind, number, *cells, *["-"] * (3 - len(cells)))
    return table


if __name__ == "__main__":
    main()
