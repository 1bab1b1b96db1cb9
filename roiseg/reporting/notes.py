"""What must be said beside the figures so that nobody reads more into them than they hold."""

from __future__ import annotations

from collections.abc import Sequence

from roiseg.data.analysis import CROWDED
from roiseg.reporting.compare import Row
from roiseg.reporting.table import TITLES


def notes(rows: Sequence[Row], metric: str, resamples: int, besides: Sequence[str] = ()) -> list[str]:
    """Sentences: what the columns are, and where the comparison is weak.

    Args:
        rows: all rows of the table.
        metric: the one that means and differences are of.
        resamples: of the bootstrap.
        besides: configuration keys that differ within variants.
    """
    base = next(row for row in rows if row.difference is None)
    title = TITLES[metric]
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
