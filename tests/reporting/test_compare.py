from functools import partial

import numpy as np
import pytest
from helpers import user_error
from run_folders import cross_validated, noisy, rois, write_run

from roiseg.reporting.compare import compare
from roiseg.reporting.runs import read_runs
from roiseg.reporting.tables import notes, verdict
from roiseg.reporting.variants import check_comparable, find_variants

TWO, THREE = "model.num_classes=2", "model.num_classes=3"


def rows_of(folder, by=(), **options):
    runs, _ = read_runs([folder])
    folds = check_comparable(runs)
    return compare(find_variants(runs, by)[0], folds, **options)


def by_hand(tmp_path):
    """Two variants, folds 0 and 1, seeds 1 and 2, with two ROIs on one image in fold 0 and one in fold 1."""
    part = {0: rois(fold=0)[:2], 1: rois(fold=1)[2:3]}
    part[0][1]["non_target_share"] = 0.4
    part[1][0]["non_target_share"] = 0.0
    measured = {
        (3, 0, 1): [0.5, 0.6], (3, 0, 2): [0.7, 0.8], (3, 1, 1): [0.9], (3, 1, 2): [0.7],
        (2, 0, 1): [0.6, 0.8], (2, 0, 2): [0.7, 0.9], (2, 1, 1): [0.8], (2, 1, 2): [0.8],
    }  # fmt: skip
    for number, ((classes, fold, seed), iou) in enumerate(measured.items()):
        write_run(
            tmp_path / f"{number}", iou, seed, fold, [f"model.num_classes={classes}"], part[fold],
            boundary=[value / 2 for value in iou], model__num_classes=classes,
            summary={"seconds": 10.0 + number, "test": {"test/miou": number / 10},
                     "parameters": {"total": 9, "trainable": 7 + classes, "frozen": 0}},
        )  # fmt: skip
    return tmp_path


def test_every_figure_by_hand(tmp_path):
    three, two = rows_of(by_hand(tmp_path), tested=["test/miou"])
    assert (three.variant.name, two.variant.name) == (THREE, TWO)
    assert (three.folds, three.seeds) == ([0, 1], [1, 2])
    means = [0.6, 0.7, 0.8]  # of each ROI over seeds
    assert three.overall.mean == pytest.approx(sum(means) / 3)
    assert (three.overall.rois, three.overall.images) == (3, 2)
    assert three.sd_seeds == pytest.approx(np.std([2.0 / 3, 2.2 / 3], ddof=1))
    assert three.sd_folds == pytest.approx(np.std([0.65, 0.8], ddof=1))
    assert (three.crowded.mean, three.crowded.rois) == (pytest.approx(0.7), 1)
    assert three.means["instance_iou75"] == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert three.means["boundary_iou"] == pytest.approx(three.overall.mean / 2)
    assert three.sizes["small"] == (1, pytest.approx(0.6))
    assert three.sizes["medium"] == (1, pytest.approx(0.7))
    assert three.sizes["large"] == (1, pytest.approx(0.8))
    assert three.tested == {"test/miou": pytest.approx((0 + 0.1 + 0.2 + 0.3) / 4)}
    assert (three.seconds, two.seconds, two.parameters) == (11.5, 15.5, (9, 9))
    assert three.difference is None
    assert two.difference.pairs == 4
    assert two.difference.overall.mean == pytest.approx((0.05 + 0.15 + 0.0) / 3)
    assert two.difference.crowded.mean == pytest.approx(0.15)
    assert two.difference.crowded.low is None  # one image
    assert verdict(two, "crowded") == "too few images"


def test_the_metric_and_the_baseline_can_be_chosen(tmp_path):
    by_hand(tmp_path)
    three, two = rows_of(tmp_path, metric="boundary_iou", baseline=TWO)
    assert two.difference is None
    assert three.difference.overall.mean == pytest.approx(-0.2 / 3 / 2)
    assert rows_of(tmp_path, metric="instance_iou75")[0].overall.mean == pytest.approx(1 / 3)
    assert TWO in user_error(partial(rows_of, baseline="model.num_classes=4"), tmp_path)
    assert "boundary_iou" in user_error(partial(rows_of, metric="boundary"), tmp_path)
    assert "test/miou" in user_error(partial(rows_of, tested=["test/iou"]), tmp_path)


def test_a_figure_that_only_some_have(tmp_path):
    write_run(tmp_path / "2", noisy(0.5), model__num_classes=2)
    write_run(tmp_path / "3", noisy(0.5), summary={"test": {"test/non_target_iou": 0.25}})
    two, three = rows_of(tmp_path, tested=["test/non_target_iou"])
    assert any("number of classes" in text for text in notes([two, three], "instance_iou", 100))
    assert (two.tested, three.tested) == ({"test/non_target_iou": None}, {"test/non_target_iou": 0.25})


def test_differences_and_their_absence_are_found(tmp_path):
    cross_validated(tmp_path, {
        THREE: (0.60, {}), TWO: (0.60, {"model__num_classes": 2}),
        "model.film=1.0": (0.63, {"model__film": 1.0}), "loss=focal": (0.57, {"loss__terms": {"focal": 1}}),
    })  # fmt: skip
    rows = {row.variant.name: row for row in rows_of(tmp_path)}
    assert {name: verdict(row, "overall") for name, row in rows.items()} == {
        THREE: "baseline", TWO: "not significant", "model.film=1.0": "better", "loss=focal": "worse",
    }  # fmt: skip
    better = rows["model.film=1.0"].difference
    assert better.overall.low < 0.03 < better.overall.high
    # pairs take away how hard each ROI is
    apart = rows[TWO].overall.high - rows[TWO].overall.low
    assert better.overall.high - better.overall.low < apart / 2


def test_a_variant_equal_to_the_baseline_differs_by_nothing(tmp_path):
    for number, settings in enumerate(({}, {"model__num_classes": 2})):
        write_run(tmp_path / str(number), noisy(0.5), **settings)
    _, same = rows_of(tmp_path)
    found = same.difference.overall
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert verdict(same, "overall") == "not significant"


def test_only_shared_folds_and_seeds_are_compared(tmp_path):
    cross_validated(tmp_path / "a", {THREE: (0.6, {})}, folds=(0, 1, 2), seeds=(1, 2))
    cross_validated(tmp_path / "b", {TWO: (0.6, {"model__num_classes": 2})}, folds=(2, 3), seeds=(2, 3))
    base, other = rows_of(tmp_path)
    assert other.difference.pairs == 1
    assert other.difference.overall.rois == 18
    shared = [row.variant.runs[2, (2,)].rois.iou for row in (other, base)]
    assert other.difference.overall.mean == pytest.approx((shared[0] - shared[1]).mean())
    assert base.overall.rois == 54
    (text,) = [text for text in notes([base, other], "instance_iou", 100) if " share " in text]
    assert "1 of 4 and 6 runs" in text


def test_a_seed_that_lacks_a_fold_has_no_share_in_the_spread_over_seeds(tmp_path):
    cross_validated(tmp_path / "a", {THREE: (0.6, {})}, folds=(0, 1), seeds=(1,))
    cross_validated(tmp_path / "b", {THREE: (0.6, {})}, folds=(0,), seeds=(2,))
    (row,) = rows_of(tmp_path)
    assert row.sd_seeds is None
    assert row.seeds == [1, 2]
    assert row.sd_folds is not None


def test_by_averages_over_the_rest_in_pairs(tmp_path):
    for number, (classes, film, gain) in enumerate(
        [(3, None, 0), (3, 1.0, 0.1), (2, None, 0.02), (2, 1.0, 0.14)]
    ):
        write_run(tmp_path / str(number), noisy(0.5) + gain, model__num_classes=classes, model__film=film)
    base, two = rows_of(tmp_path, by=["model.num_classes"])
    assert (two.difference.pairs, base.seeds) == (2, [0])
    assert two.difference.overall.mean == pytest.approx((0.02 + 0.04) / 2)
    only = [tmp_path / "0", tmp_path / "3"]  # they differ in both: no pair, no answer
    runs, _ = read_runs(only)
    rows = compare(find_variants(runs, ["model.num_classes"])[0], check_comparable(runs))
    assert verdict(rows[1], "overall") == verdict(rows[1], "crowded") == "no common runs"
    assert rows[1].difference.overall is None
    assert any("not compared" in text for text in notes(rows, "instance_iou", 100))


def test_the_notes_warn_of_what_weakens_a_comparison(tmp_path):
    cross_validated(tmp_path / "a", {THREE: (0.6, {}), TWO: (0.6, {"model__num_classes": 2})}, seeds=(1,))
    assert "One seed only: all" in " ".join(notes(rows_of(tmp_path), "instance_iou", 100))
    write_run(tmp_path / "c", noisy(0.5), seed=2, fold=0)
    text = " ".join(notes(rows_of(tmp_path), "instance_iou", 10_000, ["x.y"]))
    assert f"One seed only: `{TWO}`;" in text
    assert "10,000 bootstrap resamples" in text
    assert "they differ: x.y" in text
    assert "test_best" not in text
    write_run(tmp_path / "d" / "e", noisy(0.5), test_best=True)
    assert "test_best=true" in " ".join(notes(rows_of(tmp_path / "d"), "instance_iou", 100))
