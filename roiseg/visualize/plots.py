"""Charts: pure functions from JSON to a matplotlib Figure, without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from roiseg.common.classes import NON_TARGET, TARGET
from roiseg.common.files import as_utf8
from roiseg.visualize.canvas import CLASS_COLORS, HATCH_GRAY

_SERIES = (
    ("all ROIs", "", "#4a6fa5", -0.14, "o"),
    ("crowded ROIs", "crowded_", tuple(v / 255 for v in CLASS_COLORS[NON_TARGET]), 0.14, "s"),
)
_NAME_WIDTH = 34  # characters


def comparison_figure(records: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Plot means with 95 % confidence intervals on the left, differences on the right, one line per variant.

    Args:
        records: rows of the report (`roiseg.reporting.tables.record`), from top to bottom.
        metric: label of the metric, for the axes.
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
    means.set_title("mean and 95 % confidence interval", fontsize=11)
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
        known = [y for y, record in enumerate(records) if record[f"{kind}{part}mean"] is not None]
        values = [records[y][f"{kind}{part}mean"] for y in known]
        axes.plot(values, [y + shift for y in known], marker, color=color, markersize=5.5, label=label)


_LABELS = {"background": "background", "target": "target", "non_target": "non-target", "ignore": "ignore"}
_COLORS = {
    "background": "#b8c0cc",
    "target": tuple(v / 255 for v in CLASS_COLORS[TARGET]),
    "non_target": tuple(v / 255 for v in CLASS_COLORS[NON_TARGET]),
    "ignore": tuple(v / 255 for v in HATCH_GRAY),
}
_BARS = "#4a6fa5"
_MAX_INSTANCES = 15  # images with this many instances or more share one bar


def analysis_figure(analysis: Mapping[str, Any]) -> Figure:
    """Plot class shares and weights, instances per image, ROI sizes and non-target shares of a data set.

    Args:
        analysis: content of `data_analyze.json`.
    """
    figure = Figure(figsize=(15, 8.6), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    totals = analysis["totals"]
    figure.suptitle(
        f"{as_utf8(analysis['source'])}\n{totals['images']:,} images, {totals['instances']:,} instances, "
        f"{totals['rois']:,} ROIs of at least {analysis['parameters']['min_roi_size']:g} px",
        fontsize=13,
        parse_math=False,
    )
    rows: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    upper, lower = rows
    shares, weights = upper.subplots(1, 2, width_ratios=(1.9, 1))
    people, sizes, others = lower.subplots(1, 3)
    _class_shares(shares, analysis)
    _class_weights(weights, analysis["class_weights"])
    _instances(people, analysis["instances_per_image"])
    _roi_sizes(sizes, analysis["roi_size"])
    _non_target(others, analysis["overlap"])
    for axes in (shares, weights, people, sizes, others):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure


def _class_shares(axes: Axes, analysis: Mapping[str, Any]) -> None:
    count = analysis["totals"]["rois"]
    rows = [("all ROIs, equal weights", count, analysis["shares"])]
    rows.append(("all ROIs, by area", count, analysis["area_weighted"]["shares"]))
    rows += [(f"{name} px", band["rois"], band["shares"]) for name, band in analysis["size_bands"].items()]
    rows = [row for row in rows if row[1]]
    positions = [i + 0.4 * (i > 1) for i in range(len(rows))]
    left = np.zeros(len(rows))
    for name, label in _LABELS.items():
        shares = np.array([row[2][name] for row in rows])
        if not shares.any():
            continue
        axes.barh(positions, shares, left=left, height=0.8, color=_COLORS[name], label=label)
        for y, start, share in zip(positions, left, shares, strict=True):
            if share >= 0.03:
                axes.text(start + share / 2, y, f"{share:.1%}", ha="center", va="center", fontsize=9)
        left += shares
    axes.set_yticks(positions, [f"{name}  (n = {number:,})" for name, number, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Pixels inside the ROIs by class, over all and by ROI size (sqrt of the area)", pad=26)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9)


def _class_weights(axes: Axes, weights: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    groups = [(f"{kind}\n{n} classes", weights[kind][n]) for n in ("3", "2") for kind in ("log", "inverse")]
    for group, (_, values) in enumerate(groups):
        for name, value, shift in zip(_LABELS, values, np.arange(len(values)), strict=False):
            x = group + (shift - (len(values) - 1) / 2) * 0.27
            axes.bar(x, value, width=0.25, color=_COLORS[name])
            axes.annotate(
                f"{value:.2f}", (x, value), (0, 3), textcoords="offset points", ha="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":", zorder=0.5)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_title("Recommended class weights (mean 1)", pad=26)


def _instances(axes: Axes, histogram: Mapping[str, int]) -> None:
    counts = {int(people): images for people, images in histogram.items()}
    low, high = min(counts), min(max(counts), _MAX_INSTANCES)
    heights = [counts.get(n, 0) for n in range(low, high)]
    heights.append(sum(images for n, images in counts.items() if n >= high))
    axes.bar(range(low, high + 1), heights, color=_BARS)
    labels = [str(n) for n in range(low, high)] + [f"{high}+" if max(counts) > high else str(high)]
    axes.set_xticks(range(low, high + 1), labels)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title="Instances per image", xlabel="instances", ylabel="images")


def _roi_sizes(axes: Axes, roi_size: Mapping[str, Any]) -> None:
    _histogram(axes, roi_size["sqrt_area_histogram"])
    edges = roi_size["sqrt_area_histogram"]["edges"]
    axes.set_xscale("log", base=2)
    ticks = [edge for edge in edges if np.log2(edge) % 1 < 1e-3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    for size in (32, 96):
        if edges[0] < size < edges[-1]:
            axes.axvline(size, color="black", linewidth=0.9, linestyle="--")
    coco = roi_size["coco"]
    axes.set(
        title=f"ROI size: {coco['small']:,} small, {coco['medium']:,} medium, {coco['large']:,} large",
        xlabel="sqrt(area) in original pixels (dashed: 32 and 96)",
        ylabel="ROIs",
    )


def _non_target(axes: Axes, overlap: Mapping[str, Any]) -> None:
    _histogram(axes, overlap["non_target_share_histogram_of_rois_with_any"], color=_COLORS["non_target"])
    axes.axvline(0.1, color="black", linewidth=0.9, linestyle="--")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(
        title=f"ROIs by non-target share: {1 - overlap['any_non_target']:.0%} none, "
        f"{overlap['crowded']:.0%} crowded",
        xlabel="share, of the ROIs with any (dashed: crowded above 10%)",
        ylabel="ROIs",
    )


def _histogram(axes: Axes, histogram: Mapping[str, Sequence[float]], color: Any = _BARS) -> None:
    edges = np.array(histogram["edges"])
    axes.bar(edges[:-1], histogram["counts"], np.diff(edges), align="edge", color=color, edgecolor="white")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
