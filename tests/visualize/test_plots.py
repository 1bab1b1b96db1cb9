import warnings

import cv2
import pytest
from helpers import rectangle, write_coco
from matplotlib import pyplot

from roiseg.data.analysis import analyze
from roiseg.data.annotation_loading import load_annotations
from roiseg.visualize.plots import analysis_figure, comparison_figure


@pytest.fixture(scope="module")
def analysis(coco_set):
    return analyze(load_annotations(coco_set.json))


def panels(figure):
    return [axes for part in figure.subfigs for axes in part.axes]


def test_the_figure_is_one_png_and_leaves_pyplot_alone(analysis, tmp_path):
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


def test_bars_show_the_numbers_of_the_analysis(analysis):
    shares, weights, people, sizes, others = panels(analysis_figure(analysis))
    filled = [band for band in analysis["size_bands"].values() if band["rois"]]
    rows = [analysis["shares"], analysis["area_weighted"]["shares"], *(band["shares"] for band in filled)]
    expected = [row[name] for name in ("background", "target", "non_target", "ignore") for row in rows]
    assert [bar.get_width() for bar in shares.patches] == pytest.approx(expected)
    ends = {}
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


def test_a_single_roi_an_odd_name_and_crowded_images(tmp_path):
    alone = [{"file": "a.jpg", "segmentation": rectangle(5, 5, 60, 90)}]
    small = [{"file": "b.jpg", "segmentation": rectangle(i, 0, i + 4, 9)} for i in range(0, 100, 5)]
    sizes = {"a.jpg": (100, 100), "b.jpg": (100, 110)}
    made = write_coco(tmp_path, sizes, alone + small, name=r"a$\x$_<b>.json")
    found = analyze(load_annotations(made.json))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = analysis_figure(found)
        figure.savefig(tmp_path / "plots.png")
    labels = [label.get_text() for label in panels(figure)[2].get_xticklabels()]
    assert labels == [str(n) for n in range(1, 15)] + ["15+"]
    assert panels(figure)[2].patches[-1].get_height() == 1


def record(variant, mean, difference=None, verdict="not significant"):
    """A row; crowded ROIs are 0.1 worse, intervals reach 0.02 to each side."""
    found = {"variant": variant, "verdict": verdict}
    for kind, centre in (("", mean), ("difference_", difference)):
        for part, shift in (("", 0), ("crowded_", -0.1)):
            value = None if centre is None else centre + shift
            for end, s in (("mean", 0), ("low", -0.02), ("high", 0.02)):
                found[f"{kind}{part}{end}"] = None if value is None else value + s
    return found


RECORDS = [record("base", 0.6, verdict="baseline"), record("b", 0.7, 0.1), record("c", 0.55, -0.05)]


def points(axes):
    return {line.get_label(): line.get_xdata().tolist() for line in axes.lines if line.get_marker() != "None"}


def bars(axes):
    ends = [segment[:, 0].tolist() for part in axes.collections for segment in part.get_segments()]
    return sorted(tuple(round(end, 6) for end in pair) for pair in ends)


def test_points_and_intervals_are_those_of_the_table():
    means, differences = comparison_figure(RECORDS, "instance IoU").axes
    assert points(means) == {
        "all ROIs": pytest.approx([0.6, 0.7, 0.55]), "crowded ROIs": pytest.approx([0.5, 0.6, 0.45]),
    }  # fmt: skip
    assert points(differences)["all ROIs"] == pytest.approx([0.1, -0.05])
    assert len(bars(means)) == 6
    assert bars(differences) == [(-0.17, -0.13), (-0.07, -0.03), (-0.02, 0.02), (0.08, 0.12)]
    assert [label.get_text() for label in means.get_yticklabels()] == ["base", "b", "c"]
    assert means.get_ylim() == (2.5, -0.5)
    assert (means.get_xlabel(), differences.get_xlabel()) == ("instance IoU", "difference from base")


def test_what_is_not_known_is_not_drawn():
    unknown = dict.fromkeys(("difference_crowded_low", "difference_crowded_high", "crowded_mean"))
    means, differences = comparison_figure([RECORDS[0], RECORDS[1] | unknown], "x").axes
    assert len(points(means)["crowded ROIs"]) == 1
    assert len(points(differences)["crowded ROIs"]) == 1
    assert bars(differences) == [(0.08, 0.12)]


def test_one_variant_has_one_panel_and_odd_names_do_no_harm(tmp_path):
    name = "loss.terms=[ce,dice], data/augment=heavy, $x$_{y, model.film=1.0, callbacks.ema.decay=0.99"
    base = record(name, 0.6, verdict="baseline")
    assert len(comparison_figure([base], "x").axes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, rows in enumerate(([base], [base, RECORDS[1]])):
            comparison_figure(rows, "x").savefig(tmp_path / f"{number}.png")


def test_more_variants_make_a_taller_figure():
    many = [record("base", 0.5, verdict="baseline"), *(record(f"v{n}", 0.5, 0.01 * n) for n in range(29))]
    assert comparison_figure(many, "x").get_figheight() > 3 * comparison_figure(many[:5], "x").get_figheight()
