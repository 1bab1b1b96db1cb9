"""One table of all variants: for the terminal, as Markdown, as CSV."""

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
from roiseg.reporting.compare import Difference, Row

NONE = "–"

Column = tuple[str, Callable[[Row], str]]


def figures(metric: str) -> list[Column]:
    """Columns of what each variant reached."""
    return [
        ("folds × seeds", _trainings),
        ("ROIs", lambda row: f"{row.overall.rois:,}"),
        (LABELS[metric], lambda row: f"{row.overall.mean:.3f}"),
        ("± seeds", lambda row: _plain(row.sd_seeds)),
        ("± folds", lambda row: _plain(row.sd_folds)),
        ("crowded", lambda row: _mean(row.crowded)),
    ]


def differences() -> list[Column]:
    """Columns that compare each variant with the baseline."""
    return [
        ("pairs", lambda row: str(row.difference.runs) if row.difference else NONE),
        ("difference", lambda row: _signed(row.difference, "overall")),
        ("verdict", lambda row: verdict(row, "overall")),
        ("difference, crowded", lambda row: _signed(row.difference, "crowded")),
        ("verdict, crowded", lambda row: verdict(row, "crowded")),
    ]


def more(example: Row, metric: str, sizes: bool = False) -> list[Column]:
    """Columns of the other metrics, and of what a run takes.

    Args:
        example: any row of the table.
        metric: the one that `figures` shows.
        sizes: also its means by COCO's size classes of the annotated mask?
    """
    columns = [(LABELS[name], _mean_of(name)) for name in example.means if name != metric]
    if sizes:
        columns += [(name, _size_of(name)) for name in example.sizes]
    columns += [(name.removeprefix("test/"), _tested(name)) for name in example.tested]
    return [*columns, ("parameters", _parameters), ("s a run", lambda row: f"{row.seconds:,.0f}")]


def verdict(row: Row, part: str) -> str:
    """What the difference on a `part` of the ROIs ("overall", "crowded") says, in words."""
    if row.difference is None:
        return "baseline"
    interval: Interval | None = getattr(row.difference, part)
    if not row.difference.runs:
        return "no run in common"
    if interval is None or interval.low is None or interval.high is None:
        return "too few images"
    if interval.low <= 0 <= interval.high:
        return "nothing measurable"
    return "better" if interval.low > 0 else "worse"


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print the columns; lines grow longer than the window rather than lose a figure."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("variant", overflow="fold", min_width=16)
    filled = []
    for name, cell in columns:
        cells = [_two_lines(cell(row)) if _in_words(name) else cell(row) for row in rows]
        longest = max(len(line) for text in (_two_lines(name), *cells) for line in text.split("\n"))
        justify: Literal["left", "right"] = "left" if _in_words(name) else "right"
        table.add_column(_two_lines(name), justify=justify, no_wrap=True, min_width=longest)
        filled.append(cells)
    for row, *cells in zip(rows, *filled, strict=True):
        style = {"better": "green", "worse": "red"}.get(verdict(row, "overall"))
        table.add_row(Text(row.variant.name), *cells, style=style)
    least = console.measure(table, options=console.options.update(max_width=1000)).minimum
    table.width = least if least > console.width else None
    console.print(table, crop=False)


def markdown(columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The columns as a Markdown table, the notes below it."""
    heads = ["variant", *(name for name, _ in columns)]
    rule = ["---", *("---" if _in_words(name) else "--:" for name, _ in columns)]
    lines = [heads, rule]
    for row in rows:
        name = row.variant.name.replace("|", "\\|")
        lines.append([f"`{name}`", *(cell(row) for _, cell in columns)])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{' '.join(notes)}\n"


def record(row: Row, metric: str) -> dict[str, Any]:
    """All figures of a row by name, unrounded; the columns of the CSV."""
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
    difference = row.difference or Difference(0, None, None)
    return flat | {
        "pairs": difference.runs,
        **_flat("difference_", difference.overall),
        "verdict": verdict(row, "overall"),
        **_flat("difference_crowded_", difference.crowded),
        "verdict_crowded": verdict(row, "crowded"),
    }


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records as CSV; what is not known is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _flat(prefix: str, interval: Interval | None) -> dict[str, Any]:
    names = ("mean", "low", "high", "rois", "images")
    return {f"{prefix}{name}": getattr(interval, name, None) for name in names}


def _in_words(name: str) -> bool:
    return name.startswith("verdict")


def _two_lines(text: str) -> str:
    return text.replace(" ", "\n", 1)


def _trainings(row: Row) -> str:
    folds, seeds, runs = len(row.folds), len(row.seeds), len(row.variant.runs)
    return f"{folds} × {seeds}" + (f" ({runs} runs)" if runs != folds * seeds else "")


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _mean(interval: Interval | None) -> str:
    return NONE if interval is None else f"{interval.mean:.3f} ({interval.rois:,})"


def _mean_of(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row.means[name]:.3f}"


def _size_of(name: str) -> Callable[[Row], str]:
    return lambda row: (
        NONE if row.sizes[name][1] is None else f"{row.sizes[name][1]:.3f} ({row.sizes[name][0]:,})"
    )


def _tested(name: str) -> Callable[[Row], str]:
    return lambda row: _plain(row.tested[name])


def _parameters(row: Row) -> str:
    fewest, most = row.parameters
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _signed(difference: Difference | None, part: str) -> str:
    interval: Interval | None = getattr(difference, part, None)
    if interval is None:
        return NONE
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.3f}"
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def caveats(rows: Sequence[Row], metric: str, resamples: int, besides: Sequence[str] = ()) -> list[str]:
    """Sentences: what the columns are, and where the comparison is weak.

    Args:
        rows: all rows of the table.
        metric: the one that means and differences are of.
        resamples: of the bootstrap.
        besides: configuration keys that differ within variants.
    """
    base = next(row for row in rows if row.difference is None)
    title = LABELS[metric]
    said = [
        f"{title[0].upper()}{title[1:]}: at original resolution, mean over the ROIs of all folds, of the "
        "mean over seeds; ±: standard deviation over seeds of that mean, and over folds of the fold's mean; "
        f"crowded: ROIs (their number) with more than {CROWDED * 100:g} % of other persons."
    ]
    others = [row for row in rows if row is not base]
    if others:
        said.append(
            f"Difference from `{base.variant.name}`, ROI by ROI on the runs of the same fold and seed, with "
            f"its 95 % confidence interval: bootstrap, images and trainings drawn anew {resamples:,} times; "
            "nothing measurable: 0 is inside."
        )
    if len(others) > 1:
        said.append(f"Each of the {len(others)} intervals is for itself: one in 20 misses by chance.")
    if besides:
        said.append(f"Within a variant also differ, and are averaged over: {', '.join(besides)}.")
    classes = {run.config.get("model.num_classes") for row in rows for run in row.variant.runs.values()}
    if base.tested and len(classes) > 1:
        said.append(
            "Means over classes (such as miou) are over two classes in one variant, three in another."
        )
    return said + _weak(rows, base)


def _weak(rows: Sequence[Row], base: Row) -> list[str]:
    said = []
    single = [row for row in rows if len(row.seeds) == 1]
    if single:
        said.append(
            f"One seed only: {_names(single, rows)}; how much training itself varies is not in the intervals."
        )
    for row in rows:
        if row.difference is None:
            continue
        shared, own, others = row.difference.runs, len(row.variant.runs), len(base.variant.runs)
        pair = f"`{row.variant.name}` and `{base.variant.name}` share"
        if not shared:
            said.append(f"{pair} no run of the same fold and seed: not compared.")
        elif shared < max(own, others):
            said.append(
                f"{pair} {shared} of {own} and {others} runs: the difference is of these alone, the other "
                "columns are of all runs of a variant."
            )
    if any(run.config.get("test_best", True) for row in rows for run in row.variant.runs.values()):
        said.append(
            "Tested was the epoch that is best on the very images of the test (test_best=true): all figures "
            "are a little high."
        )
    return said


def _names(chosen: Sequence[Row], rows: Sequence[Row]) -> str:
    return "all" if len(chosen) == len(rows) else ", ".join(f"`{row.variant.name}`" for row in chosen)
