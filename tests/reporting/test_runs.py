import json

import pytest
from helpers import user_error
from run_folders import noisy, rois, write_run

from roiseg.reporting.runs import read_rois, read_run, read_runs, run_folders


def test_runs_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path):
    for name in ("sweeps/x/10_unet", "sweeps/x/2_unet", "sweeps/x/1_roialign", "one"):
        write_run(tmp_path / name, noisy(0.5))
    kept_by_a_logger = tmp_path / "one" / "wandb" / "files"
    kept_by_a_logger.mkdir(parents=True)
    (kept_by_a_logger / "config.yaml").write_text("a: 1")
    found = [str(path.relative_to(tmp_path)) for path in run_folders([tmp_path])]
    assert found == ["one", "sweeps/x/1_roialign", "sweeps/x/2_unet", "sweeps/x/10_unet"]
    twice = run_folders([tmp_path / "one", tmp_path, tmp_path / "sweeps" / ".." / "one"])
    assert len(twice) == 4
    assert twice[0] == tmp_path / "one"


def test_a_run_knows_seed_fold_and_what_was_measured(tmp_path):
    iou, edge = noisy(0.5, 1), noisy(0.4, 2)
    rows = rois(fold=3)
    shuffled = sorted(range(len(rows)), key=lambda i: (i * 7) % len(rows))
    write_run(
        tmp_path / "r", [iou[i] for i in shuffled], seed=4, fold=3, rows=[rows[i] for i in shuffled],
        boundary=[edge[i] for i in shuffled],
    )  # fmt: skip
    run = read_run(tmp_path / "r")
    assert (run.seeds, run.fold, len(run.rois)) == ([4], 3, 18)
    position = {name: i for i, name in enumerate(run.rois.names)}
    for row, value, border in zip(rows, iou, edge, strict=True):
        at = position[str(row["image_id"]), str(row["annotation_id"])]
        assert (run.rois.iou[at], run.rois.boundary_iou[at], run.rois.area[at]) == (
            value, border, row["area"],
        )  # fmt: skip
        assert run.rois.boxes[at].tolist() == [row["x1"], row["y1"], row["x2"], row["y2"]]
        assert run.rois.crowded[at] == (row["non_target_share"] > 0.1)


def test_a_roi_with_just_a_tenth_of_others_is_not_crowded(tmp_path):
    rows = [row | {"non_target_share": share} for row, share in zip(rois(), [0.1, 0.1001], strict=False)]
    write_run(tmp_path / "r", [0.5, 0.5], rows=rows)
    assert read_run(tmp_path / "r").rois.crowded.tolist() == [False, True]


def test_the_runs_own_folders_make_no_difference(tmp_path):
    a = read_run(write_run(tmp_path / "a", noisy(0.5)))
    b = read_run(write_run(tmp_path / "b" / "c", noisy(0.5)))
    assert a.config == b.config
    assert a.config["logger.csv.save_dir"] == "{output_dir}"
    assert a.config["callbacks.checkpoint.dirpath"] == "{checkpoint_dir}"
    assert a.config["data.train_images"] == "/data/train"


def test_unfinished_runs_are_left_out_and_named(tmp_path):
    for number, name in enumerate(["config.yaml", "summary.json", "instances.csv", ""]):
        folder = write_run(tmp_path / f"{number}", noisy(0.5))
        (folder / name).unlink() if name else None
    runs, unfinished = read_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["3"]
    assert {path.name: absent for path, absent in unfinished.items()} == {
        "0": "config.yaml", "1": "summary.json", "2": "instances.csv",
    }  # fmt: skip
    (tmp_path / "3" / "summary.json").unlink()
    text = user_error(read_runs, [tmp_path])
    assert "no finished run" in text
    assert "4 without" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,a,2,0,0,9,9,81,0,x,0", ["line 3", "`iou`", "'x'", "0 to 1"]),
        ("1,a,2,0,0,9,9,81,0,1.5,0", ["`iou`", "1.5"]),
        ("1,a,2,0,0,9,9,81,nan,1,0", ["`non_target_share`"]),
        ("1,a,2,0,0,9,inf,81,0,1,0", ["`y2`", "number"]),
        ("1,a,2,0,0", ["`x2`", "None"]),
        ("0,a,0,0,0,9,9,81,0,1,0", ["annotation 0 of image 0", "duplicate"]),
    ],
)
def test_a_damaged_row_is_named(tmp_path, line, words):
    path = write_run(tmp_path / "r", [0.5], rows=rois()[:1]) / "instances.csv"
    path.write_text(path.read_text() + line + "\n")
    text = user_error(read_rois, path)
    assert str(path) in text
    assert all(word in text for word in words), text


def test_damaged_files_are_named(tmp_path):
    folder = write_run(tmp_path / "r", [], rows=[])
    assert "has no ROIs" in user_error(read_run, folder)
    (folder / "instances.csv").write_text("image_id,iou\n1,0.5\n")
    assert "no column `annotation_id`" in user_error(read_run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["parameters"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "no `parameters`" in user_error(read_run, folder)
    (folder / "summary.json").write_text("{")
    assert "not valid json" in user_error(read_run, folder)
    for text in ("a: [", "- 1", "\tx", "5"):
        (folder / "config.yaml").write_text(text)
        assert str(folder / "config.yaml") in user_error(read_run, folder)


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"seed": 3}, "has seed 3, config.yaml 0"),
        ({"test": {"test/instance_iou": 0.9}}, "has test/instance_iou 0.9, instances.csv 0.5"),
        ({"test": {"test/instance_iou": float("nan")}}, "`test` is"),
        ({"test": {"test/instance_iou": "high"}}, "`test` is"),
        ({"test": 5}, "`test` is"),
        ({"data": []}, "`data` is []"),
        ({"parameters": {}}, "no `parameters.trainable`"),
        ({"overrides": 0.5}, "`overrides` is 0.5"),
    ],
)
def test_files_of_different_runs_are_refused(tmp_path, summary, words):
    folder = write_run(tmp_path / "r", [0.5, 0.5], rows=rois()[:2], summary=summary)
    message = user_error(read_run, folder)
    assert words in message
    assert str(folder) in message
