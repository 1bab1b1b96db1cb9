"""`python -m roiseg.report DIR...`: finished runs in one table, compared ROI by ROI."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from omegaconf import DictConfig, ListConfig
from pydantic import Field

from roiseg.common.console import console
from roiseg.common.errors import UserError
from roiseg.common.files import atomic_path, open_text, write_json
from roiseg.common.limits import MAX_RESAMPLES
from roiseg.common.outputs import check_folder, check_output
from roiseg.config.entry import command
from roiseg.config.validation import validated
from roiseg.metrics.registry import LABELS
from roiseg.reporting import tables as table
from roiseg.reporting.compare import Row, compare
from roiseg.reporting.runs import read_runs
from roiseg.reporting.variants import check_comparable, find_variants
from roiseg.visualize.plots import comparison_figure

_FILES = ("report.md", "report.csv", "report.json", "report.png")


class Options(TypedDict):
    """Keys of conf/report.yaml."""

    sizes: bool
    resamples: Annotated[int, Field(ge=100, le=MAX_RESAMPLES)]
    output_dir: str | None


def report(cfg: DictConfig) -> Path:
    """Read, compare, show and write; returns the folder of the report."""
    validated(cfg, Options)
    folders, metric = listed(cfg, "runs"), str(cfg.metric)
    if not folders:
        raise UserError("give one or more folders of runs: python -m roiseg.report outputs/sweeps/NAME")
    output = Path(cfg.output_dir) if cfg.output_dir else Path(common_folder(folders), "report")
    check_folder(output, "output_dir")
    for name in _FILES:
        check_output(output / name)
    runs, unfinished = read_runs(folders)
    rois = check_comparable(runs)
    variants, averaged = find_variants(runs, listed(cfg, "by"))
    tested = [name if "/" in name else f"test/{name}" for name in listed(cfg, "test")]
    baseline = None if cfg.baseline is None else str(cfg.baseline)
    rows = compare(variants, rois, baseline, metric, tested, cfg.resamples)
    sentences = table.notes(rows, metric, cfg.resamples, averaged) + left_out(unfinished)
    show(rows, metric, cfg.sizes, sentences)
    write(output, rows, metric, cfg.sizes, sentences)
    return output


def listed(cfg: DictConfig, key: str) -> list[str]:
    """Return the values of an option that may be null, one value, several with commas, or a list."""
    value = cfg[key]
    if value is None:
        return []
    if isinstance(value, ListConfig):
        return [str(item) for item in value]
    return [item.strip() for item in str(value).split(",") if item.strip()]


def common_folder(folders: Sequence[str]) -> str:
    """Return the folder given, or the deepest one that holds all folders given."""
    return folders[0] if len(folders) == 1 else os.path.commonpath([os.path.abspath(f) for f in folders])


def left_out(unfinished: Mapping[Path, str]) -> list[str]:
    """Describe the unfinished runs, if any."""
    if not unfinished:
        return []
    some = ", ".join(f"{folder} (no {absent})" for folder, absent in list(unfinished.items())[:3])
    more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
    return [f"Unfinished and left out: {len(unfinished)} run{'s' * (len(unfinished) > 1)}: {some}{more}."]


def show(rows: Sequence[Row], metric: str, sizes: bool, sentences: Sequence[str]) -> None:
    """Print the table in parts."""
    table.print_table("results", table.figures(metric), rows)
    if len(rows) > 1:
        table.print_table("compared with the baseline", table.differences(), rows)
    table.print_table("other figures", table.more(rows[0], metric, sizes), rows)
    for sentence in sentences:
        console.print(sentence, highlight=False)


def write(folder: Path, rows: Sequence[Row], metric: str, sizes: bool, sentences: Sequence[str]) -> None:
    """Write the table as report.md, report.csv, report.json and report.png."""
    compared = table.differences() if len(rows) > 1 else []
    columns = [*table.figures(metric), *compared, *table.more(rows[0], metric, sizes)]
    records = [table.record(row, metric) for row in rows]
    _write_text(folder / "report.md", table.markdown(columns, rows, sentences))
    _write_text(folder / "report.csv", table.csv_text(records))
    variants = [record | _background(row) for record, row in zip(records, rows, strict=True)]
    write_json(folder / "report.json", {"notes": list(sentences), "variants": variants})
    with atomic_path(folder / "report.png") as path:
        comparison_figure(records, LABELS[metric]).savefig(path)
    console.print(f"{folder}: {', '.join(_FILES)}", soft_wrap=True)


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        stream.write(text)


def _background(row: Row) -> dict[str, Any]:
    """Return the background of a row: run folders, seeds, folds, and the values that define the variant."""
    return {
        "run_folders": [str(run.folder) for run in row.variant.runs.values()],
        "run_seeds": row.seeds,
        "run_folds": row.folds,
        # json has no word for infinity, which yaml has
        "configuration": json.loads(json.dumps(row.variant.differing, default=str), parse_constant=str),
    }


@command("report", words="runs")
def main(cfg: DictConfig) -> None:
    """Compare runs, and write the report."""
    report(cfg)


if __name__ == "__main__":
    main()
