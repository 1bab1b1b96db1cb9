"""`python -m roiseg.report`, in this process."""

import csv
import json

import cv2
import pytest
from run_folders import cross_validated, noisy, write_run

import roiseg.report

TWO, THREE = "model.num_classes=2", "model.num_classes=3"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep over two and three classes, folds 0 and 1, seeds 1 and 2, with one unfinished run."""
    folder = tmp_path_factory.mktemp("sweeps") / "classes"
    cross_validated(folder, {TWO: (0.6, {"model__num_classes": 2}), THREE: (0.64, {})}, folds=(0, 1))
    (write_run(folder / "99_run", noisy(0.5), seed=9) / "instances.csv").unlink()
    return folder


def test_it_prints_the_table_and_writes_it_in_four_ways(run_main, sweep, tmp_path):
    code, stderr = run_main(roiseg.report, sweep, "output_dir=out", "test=miou,target_iou", "sizes=true")
    assert (code, stderr) == (0, "")
    out = tmp_path / "out"
    names = [".roiseg_made", "report.csv", "report.json", "report.md", "report.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert cv2.imread(str(out / "report.png")) is not None
    text = (out / "report.md").read_text()
    assert f"| `{TWO}` | 2 × 2 | 36 |" in text
    assert "Unfinished and left out: 1 run: " in text
    assert "99_run (no instances.csv)" in text
    said = ("Unfinished and left out: 1 run", TWO, THREE, "better", "baseline", "report.md")
    assert all(words in run_main.printed for words in said)
    content = json.loads((out / "report.json").read_text())
    two, three = content["variants"]
    assert (two["variant"], three["verdict"]) == (TWO, "better")
    assert three["configuration"] == {"model.num_classes": 3}
    assert (three["run_seeds"], three["run_folds"], len(three["run_folders"])) == ([1, 2], [0, 1], 4)
    (first, second) = csv.DictReader((out / "report.csv").open())
    assert float(second["difference_mean"]) == three["difference_mean"] == pytest.approx(0.04, abs=0.01)
    assert float(first["test/target_iou"]) == 0.6


def test_the_baseline_needs_no_quotes_and_by_takes_several(run_main, sweep, tmp_path):
    chosen = [f"baseline={THREE}", "by=model.num_classes,loss", "metric=instance_iou75"]
    assert run_main(roiseg.report, sweep, *chosen, "output_dir=out")[0] == 0
    two, three = json.loads((tmp_path / "out" / "report.json").read_text())["variants"]
    assert (two["metric"], three["verdict"], two["difference_images"]) == ("instance_iou75", "baseline", 12)


def test_the_report_lies_with_the_runs(run_main, tmp_path):
    for name in ("a/x", "a/y", "b"):
        write_run(tmp_path / "runs" / name, noisy(0.5), variant=name)
    assert run_main(roiseg.report, "runs/a")[0] == 0
    assert (tmp_path / "runs/a/report/report.md").is_file()
    assert run_main(roiseg.report, "runs/a/x", tmp_path / "runs/b")[0] == 0
    assert (tmp_path / "runs/report/report.csv").is_file()
    assert run_main(roiseg.report, "runs/a")[0] == 0  # the report itself is no run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["python -m roiseg.report"]),
        (["empty"], ["empty", "no finished run"]),
        (["runs", "baseline=model=sam"], ["baseline", "model=sam"]),
        (["runs", "by=model.clases"], ["by", "model.clases", "model.num_classes"]),
        (["runs", "metric=ap"], ["metric", "ap", "iou"]),
        (["runs", "test=ap"], ["test/ap", "test/miou"]),
        (["runs", "resamples=few"], ["resamples", "few", "valid integer"]),
        (["runs", "output_dir=/dev/null"], ["/dev/null", "output_dir"]),
        (["runs", "basline=x"], ["basline", "baseline"]),
        (["runs", "mixed"], ["runs/a", "mixed", "data.min_roi_size", "16", "8"]),
    ],
)
def test_mistakes_end_in_one_line(refused, tmp_path, arguments, words):
    write_run(tmp_path / "runs" / "a", noisy(0.5))
    write_run(tmp_path / "mixed", noisy(0.5), seed=2, data__min_roi_size=8)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    refused(roiseg.report, arguments, *words)
    assert sorted(tmp_path.rglob("*")) == before
