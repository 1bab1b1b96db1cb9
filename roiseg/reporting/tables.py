"""The report's table: on the terminal, as Markdown, as CSV; and its notes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

from roiseg.common.console import console
from roiseg.data.analysis import CROWDED
from roiseg.metrics.registry import LABELS
from roiseg.reporting.bootstrap import Interval
from roiseg.reporting.compare import PairedDifference, Row

_MISSING = "–"

Column = tuple[str, Callable[[Row], str]]


def figures(metric: str) -> list[Column]:
    """Return the columns with the results of each variant."""
    return [
        ("folds × seeds", _trainings),
        ("ROIs", lambda row: f"{row.overall.rois:,}"),
        (LABELS[metric], lambda row: f"{row.overall.mean:.3f}"),
        ("± seeds", lambda row: _optional(row.sd_seeds)),
        ("± folds", lambda row: _optional(row.sd_folds)),
        ("crowded", lambda row: _mean(row.crowded)),
    ]


def differences() -> list[Column]:
    """Return the columns that compare each variant with the baseline."""
    return [
        ("pairs", lambda row: str(row.difference.pairs) if row.difference else _MISSING),
        ("difference", lambda row: _signed(row.difference, "overall")),
        ("verdict", lambda row: verdict(row, "overall")),
        ("difference, crowded", lambda row: _signed(row.difference, "crowded")),
        ("verdict, crowded", lambda row: verdict(row, "crowded")),
    ]


def more(example: Row, metric: str, sizes: bool = False) -> list[Column]:
    """Return the columns with other metrics, parameters and duration.

    Args:
        metric: the metric that `figures` shows.
        sizes: include its means by COCO's size classes.
    """
    columns = [(LABELS[name], _mean_of(name)) for name in example.means if name != metric]
    if sizes:
        columns += [(name, _size_of(name)) for name in example.sizes]
    columns += [(name.removeprefix("test/"), _tested(name)) for name in example.tested]
    return [*columns, ("parameters", _parameters), ("s per run", lambda row: f"{row.seconds:,.0f}")]


def verdict(row: Row, part: str) -> str:
    """Return the conclusion from the difference on a `part` of the ROIs ("overall", "crowded")."""
    if row.difference is None:
        return "baseline"
    interval: Interval | None = getattr(row.difference, part)
    if not row.difference.pairs:
        return "no common runs"
    if interval is None or interval.low is None or interval.high is None:
        return "too few images"
    if interval.low <= 0 <= interval.high:
        return "not significant"
    return "better" if interval.low > 0 else "worse"


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print the columns; lines may exceed the window, but no figure is cut off."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("variant", overflow="fold", min_width=16)
    columns_of_cells = []
    for name, cell in columns:
        cells = [_two_lines(cell(row)) if _is_verdict(name) else cell(row) for row in rows]
        longest = max(len(line) for text in (_two_lines(name), *cells) for line in text.split("\n"))
        justify: Literal["left", "right"] = "left" if _is_verdict(name) else "right"
        table.add_column(_two_lines(name), justify=justify, no_wrap=True, min_width=longest)
        columns_of_cells.append(cells)
    for row, *cells in zip(rows, *columns_of_cells, strict=True):
        style = {"better": "green", "worse": "red"}.get(verdict(row, "overall"))
        table.add_row(Text(row.variant.name), *cells, style=style)
    minimum = console.measure(table, options=console.options.update(max_width=1000)).minimum
    table.width = minimum if minimum > console.width else None
    console.print(table, crop=False)


def markdown(columns: Sequence[Column], rows: Sequence[Row], sentences: Sequence[str]) -> str:
    """Return the columns as a Markdown table with sentences below."""
    heads = ["variant", *(name for name, _ in columns)]
    rule = ["---", *("---" if _is_verdict(name) else "--:" for name, _ in columns)]
    lines = [heads, rule]
    for row in rows:
        name = row.variant.name.replace("|", "\\|")
        lines.append([f"`{name}`", *(cell(row) for _, cell in columns)])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{' '.join(sentences)}\n"


def record(row: Row, metric: str) -> dict[str, Any]:
    """Return all figures of a row by name, unrounded: the columns of the CSV."""
    flat: dict[str, Any] = {
        "variant": row.variant.name,
        "runs": len(row.variant.runs),
        "folds": len(row.folds),
        "seeds": len(row.seeds),
        "metric": metric,
        **_flat("", row.overall),
        **_flat("crowded_", row.crowded),
        "sd_seeds": row.sd_seeds,
        "sd_folds": row.sd_folds,
        **{f"mean_{name}": value for name, value in row.means.items()},
    }
    for name, (number, value) in row.sizes.items():
        flat |= {f"{name}_rois": number, f"{name}_mean": value}
    flat |= row.tested
    flat |= {"parameters": row.parameters[1], "seconds": row.seconds}
    difference = row.difference or PairedDifference(0, None, None)
    return flat | {
        "pairs": difference.pairs,
        **_flat("difference_", difference.overall),
        "verdict": verdict(row, "overall"),
        **_flat("difference_crowded_", difference.crowded),
        "verdict_crowded": verdict(row, "crowded"),
    }


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Return records as CSV; missing values are empty cells."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _flat(prefix: str, interval: Interval | None) -> dict[str, Any]:
    names = ("mean", "low", "high", "rois", "images")
    return {f"{prefix}{name}": getattr(interval, name, None) for name in names}


def _is_verdict(name: str) -> bool:
    return name.startswith("verdict")


def _two_lines(text: str) -> str:
    return text.replace(" ", "\n", 1)


def _trainings(row: Row) -> str:
    folds, seeds, runs = len(row.folds), len(row.seeds), len(row.variant.runs)
    return f"{folds} × {seeds}" + (f" ({runs} runs)" if runs != folds * seeds else "")


def _optional(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"


def _mean(interval: Interval | None) -> str:
    return _MISSING if interval is None else f"{interval.mean:.3f} ({interval.rois:,})"


def _mean_of(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row.means[name]:.3f}"


def _size_of(name: str) -> Callable[[Row], str]:
    return lambda row: (
        _MISSING if row.sizes[name][1] is None else f"{row.sizes[name][1]:.3f} ({row.sizes[name][0]:,})"
    )


def _tested(name: str) -> Callable[[Row], str]:
    return lambda row: _optional(row.tested[name])


def _parameters(row: Row) -> str:
    fewest, most = row.parameters
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _signed(difference: PairedDifference | None, part: str) -> str:
    interval: Interval | None = getattr(difference, part, None)
    if interval is None:
        return _MISSING
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def notes(rows: Sequence[Row], metric: str, resamples: int, averaged: Sequence[str] = ()) -> list[str]:
    """Return sentences that define the columns and name the limits of the comparison.

    Args:
        metric: the metric of means and differences.
        averaged: configuration keys that differ within variants.
    """
    base = next(row for row in rows if row.difference is None)
    others = [row for row in rows if row is not base]
    title = LABELS[metric]
    sentences = [
        f"{title[0].upper()}{title[1:]} at original resolution, averaged over seeds, then over the ROIs of "
        "all folds; ± seeds, ± folds: standard deviation of the mean across seeds and folds; crowded: ROIs "
        f"(number) of which other persons cover more than {CROWDED * 100:g} %."
    ]
    if others:
        sentences.append(
            f"Differences from `{base.variant.name}` are paired by ROI, fold and seed, with 95 % confidence "
            f"intervals from {resamples:,} bootstrap resamples of images and trainings; not significant: the "
            "interval contains 0."
        )
    if any(len(run.seeds) > 1 for row in rows for run in row.variant.runs.values()):
        sentences.append("An ensemble is paired with the run of each of its seeds.")
    if len(others) > 1:
        sentences.append(
            f"The {len(others)} intervals are not corrected for multiple comparisons: on average, one in 20 "
            "misses the true difference."
        )
    if averaged:
        sentences.append(f"Averaged within variants, although they differ: {', '.join(averaged)}.")
    classes = {run.config.get("model.num_classes") for row in rows for run in row.variant.runs.values()}
    if base.tested and len(classes) > 1:
        sentences.append("Means over classes (such as miou) depend on the number of classes, which differs.")
    return sentences + _limits(rows, base)


def _limits(rows: Sequence[Row], base: Row) -> list[str]:
    sentences = []
    if single := [row for row in rows if len(row.seeds) == 1]:
        names = ", ".join(f"`{row.variant.name}`" for row in single) if len(single) < len(rows) else "all"
        sentences.append(
            f"One seed only: {names}; the intervals exclude the variation between training runs."
        )
    for row in rows:
        if row.difference is None:
            continue
        pairs, own, others = row.difference.pairs, len(row.variant.runs), len(base.variant.runs)
        names = f"`{row.variant.name}` and `{base.variant.name}`"
        if not pairs:
            sentences.append(f"{names} have no run with the same fold and seed: not compared.")
        elif pairs < max(own, others):
            sentences.append(
                f"{names} share {pairs} of {own} and {others} runs: the difference uses only these, all "
                "other columns use all runs."
            )
    if any(run.config.get("test_best", True) for row in rows for run in row.variant.runs.values()):
        sentences.append(
            "The tested epoch is the best on the test images (test_best=true): all figures are slightly "
            "optimistic."
        )
    return sentences
