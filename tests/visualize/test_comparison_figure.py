from __future__ import annotations

import warnings

import cv2
import pytest

from roiseg.visualize.plots import comparison_figure


def record(variant, mean, difference=None, verdict="not significant"):
    """A row; crowded ROIs are 0.1 worse, intervals reach 0.02 to each side."""
    found = {"variant": variant, "verdict": verdict}
    for kind, centre in (("", mean), ("difference_", difference)):
        for part, shift in (("", 0), ("crowded_", -0.1)):
            value = None if centre is None else centre + shift
            found[f"{kind}{part}mean"] = value
            found |= {
                f"{kind}{part}{end}": None if value is None else value + s
                for end, s in (("low", -0.02), ("high", 0.02))
            }
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


def test_more_variants_make_a_taller_picture_always_the_same(tmp_path):
    many = [record("base", 0.5, verdict="baseline"), *(record(f"v{n}", 0.5, 0.01 * n) for n in range(29))]
    for name in ("a", "b"):
        comparison_figure(many, "x").savefig(tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert cv2.imread(str(tmp_path / "a.png")).shape[0] > 1500
