from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import pytest
from helpers import CocoSet, rectangle, write_coco
from matplotlib import pyplot
from matplotlib.figure import Figure

from roiseg.data.analysis import analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.visualize.plots import analysis_figure


@pytest.fixture(scope="module")
def analysis(coco_set: CocoSet) -> dict:
    return analyze(load_annotations(coco_set.json))


def panels(figure: Figure) -> list:
    return [axes for part in figure.subfigs for axes in part.axes]


def test_the_figure_is_one_png_and_leaves_pyplot_alone(analysis: dict, tmp_path: Path) -> None:
    figure = analysis_figure(analysis)
    figure.savefig(tmp_path / "plots.png")
    analysis_figure(analysis).savefig(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plots.png").read_bytes()
    assert cv2.imread(str(tmp_path / "plots.png")).shape == (946, 1650, 3)
    assert pyplot.get_fignums() == []
    assert [axes.get_title().split(":")[0] for axes in panels(figure)] == [
        "Pixels inside the ROIs by class, over all and by ROI size (sqrt of the area)",
        "Recommended class weights (mean 1)",
        "Instances per image",
        "ROI size",
        "ROIs by non-target share",
    ]


def test_bars_show_the_numbers_of_the_analysis(analysis: dict) -> None:
    shares, weights, people, sizes, others = panels(analysis_figure(analysis))
    filled = [band for band in analysis["size_bands"].values() if band["rois"]]
    rows = [analysis["shares"], analysis["area_weighted"]["shares"], *(band["shares"] for band in filled)]
    expected = [row[name] for name in ("background", "target", "non_target", "ignore") for row in rows]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx(expected)
    ends: dict[float, float] = {}
    for bar in shares.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0), bar.get_x() + bar.get_width())
    assert list(ends.values()) == pytest.approx([1] * len(rows), abs=1e-5)

    of = analysis["class_weights"]
    heights = [*of["log"]["3"], *of["inverse"]["3"], *of["log"]["2"], *of["inverse"]["2"]]
    assert [bar.get_height() for bar in weights.patches] == pytest.approx(heights)
    assert sum(bar.get_height() for bar in people.patches) == analysis["totals"]["images"]
    assert sum(bar.get_height() for bar in sizes.patches) == analysis["totals"]["rois"]
    with_any = analysis["overlap"]["any_non_target"] * analysis["totals"]["rois"]
    assert sum(bar.get_height() for bar in others.patches) == pytest.approx(with_any, abs=1e-3)


def test_a_single_roi_an_odd_name_and_crowded_images(tmp_path: Path) -> None:
    alone = [{"file": "a.jpg", "segmentation": rectangle(5, 5, 60, 90)}]
    small = [{"file": "b.jpg", "segmentation": rectangle(i, 0, i + 4, 9)} for i in range(0, 100, 5)]
    made = write_coco(
        tmp_path, {"a.jpg": (100, 100), "b.jpg": (100, 110)}, alone + small, name=r"a$\x$_<b>.json"
    )
    found = analyze(load_annotations(made.json))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = analysis_figure(found)
        figure.savefig(tmp_path / "plots.png")
    labels = [label.get_text() for label in panels(figure)[2].get_xticklabels()]
    assert labels == [str(n) for n in range(1, 15)] + ["15+"]
    assert panels(figure)[2].patches[-1].get_height() == 1
