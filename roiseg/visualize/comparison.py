"""Variants side by side: what each reached, and how it differs from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from roiseg.common.classes import NON_TARGET
from roiseg.common.files import as_utf8
from roiseg.visualize.class_map import CLASS_COLORS

_SERIES = (
    ("all ROIs", "", "#4a6fa5", -0.14, "o"),
    ("crowded ROIs", "crowded_", tuple(v / 255 for v in CLASS_COLORS[NON_TARGET]), 0.14, "s"),
)
_NAME_WIDTH = 34  # characters


def comparison_figure(records: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Points with 95 % intervals, a line a variant: means on the left, differences on the right.

    Args:
        records: rows of the report (`roiseg.reporting.table.record`); the first is drawn on top.
        metric: what is measured, for the axes.
    """
    names = [fill(as_utf8(record["variant"]), _NAME_WIDTH) for record in records]
    height = 1.7 + sum(0.32 + 0.17 * name.count("\n") + 0.17 for name in names)
    figure = Figure(figsize=(11, height), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, min(len(records), 2), sharey=True, squeeze=False)[0]
    means, *others = panels
    _points(means, records, "")
    means.set_yticks(range(len(records)), [name.replace("$", r"\$") for name in names])
    means.set_ylim(len(records) - 0.5, -0.5)
    means.set_xlabel(metric)
    means.set_title("mean and 95 % interval", fontsize=11)
    for differences in others:
        _points(differences, records, "difference_")
        differences.axvline(0, color="black", linewidth=0.9, linestyle="--", zorder=0.5)
        baseline = next(record["variant"] for record in records if record["verdict"] == "baseline")
        differences.set_xlabel(f"difference from {as_utf8(baseline)}", parse_math=False)
        differences.set_title("difference, ROI by ROI", fontsize=11)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.legend(*means.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _points(axes: Axes, records: Sequence[Mapping[str, Any]], kind: str) -> None:
    for label, part, color, shift, marker in _SERIES:
        for y, record in enumerate(records):
            low, high = record[f"{kind}{part}low"], record[f"{kind}{part}high"]
            if low is not None:
                axes.hlines(y + shift, low, high, color=color)
        shown = [y for y, record in enumerate(records) if record[f"{kind}{part}mean"] is not None]
        values = [records[y][f"{kind}{part}mean"] for y in shown]
        axes.plot(values, [y + shift for y in shown], marker, color=color, markersize=5.5, label=label)
