"""Commands as a user runs them: in processes of their own, swept, exported."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest
from helpers import run_command

import roiseg.train

pytestmark = pytest.mark.slow


def test_a_sweep_gives_each_run_its_own_folders_and_one_bad_job_does_not_stop_the_others(
    tiny_overrides, tmp_path
):
    done = run_command(
        ["roiseg.train", "-m", *tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1",
         "model.num_classes=7,2,3"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "`model.num_classes` is 7: it must be less than or equal to 3" in done.stderr
    assert "Traceback" not in done.stderr
    summaries = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert sorted(summary["overrides"][-1] for summary in summaries) == [
        "model.num_classes=2", "model.num_classes=3",
    ]  # fmt: skip
    assert len({summary["checkpoint_dir"] for summary in summaries}) == 2
    assert all(len(list(Path(s["checkpoint_dir"]).glob("*.pth"))) == 1 for s in summaries)


def test_a_sweep_with_one_folder_for_all_still_keeps_runs_apart_and_runs_side_by_side(
    tiny_overrides, tmp_path
):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = run_command(
        ["roiseg.train", "-m", "sweep=joblib", *tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1",
         "seed=1,2", f"paths.output_dir={tmp_path}/out", f"paths.checkpoint_dir={tmp_path}/ckpt"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("out*/summary.json"))) == 2
    assert len(list(tmp_path.glob("ckpt*/*.pth"))) == 2


def test_training_writes_into_folders_of_its_own_by_default(run_main, tiny_overrides, tmp_path):
    code, stderr = run_main(roiseg.train, *tiny_overrides, "trainer.max_epochs=1", "~callbacks.onnx_export")
    assert (code, stderr) == (0, "")
    (path,) = tmp_path.glob("outputs/train/*/summary.json")
    summary = json.loads(path.read_text())
    assert Path(summary["output_dir"]).name == Path(summary["checkpoint_dir"]).name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "data", "outputs"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["index"]


@pytest.mark.parametrize("options", [[], ["merged=true"], ["half=true"]], ids=["decoder", "merged", "half"])
def test_export_needs_nothing_but_the_checkpoint(checkpoint, tmp_path, options):
    arguments = [f"ckpt={checkpoint}", "output=masks.onnx", *options]
    done = run_command(["roiseg.export", *arguments], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "real input, largest difference" in done.stdout
    assert "not compared" not in done.stdout
    inputs = {i.name: i.shape for i in ort.InferenceSession(str(tmp_path / "masks.onnx")).get_inputs()}
    merged = options == ["merged=true"]
    first = {"images": [1, 3, 64, 64]} if merged else {"/model.3/Concat_output_0": [1, 20, 16, 16]}
    assert inputs == {**first, "rois": ["num_rois", 4]}
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["masks.onnx"]


def test_help_names_groups_and_first_commands():
    done = run_command(["roiseg.train", "--help"])
    assert done.returncode == 0
    for text in ("model=roialign loss=ce_dice", "experiment [null]: ", "coco128_yolox", "trainer.max_epochs"):
        assert text in done.stdout
