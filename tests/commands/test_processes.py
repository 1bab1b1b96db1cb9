"""Commands as a user runs them: in processes of their own, swept, exported."""

import json
from pathlib import Path

import onnxruntime as ort
import pytest
from helpers import run_command

import roiseg.train

pytestmark = pytest.mark.slow


def test_one_bad_job_of_a_sweep_does_not_stop_the_others(tiny_overrides, tmp_path):
    arguments = [*tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1", "model.num_classes=7,2,3"]
    done = run_command(["roiseg.train", "-m", *arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert "`model.num_classes` is 7: it must be less than or equal to 3" in done.stderr
    assert "Traceback" not in done.stderr
    summaries = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    told = sorted(summary["overrides"][-1] for summary in summaries)
    assert told == ["model.num_classes=2", "model.num_classes=3"]
    assert len({summary["checkpoint_dir"] for summary in summaries}) == 2
    assert all(len(list(Path(s["checkpoint_dir"]).glob("*.pth"))) == 1 for s in summaries)


def test_runs_side_by_side_with_one_folder_for_all_are_kept_apart(tiny_overrides, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = [*tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1", "seed=1,2"]
    arguments += [f"paths.output_dir={tmp_path}/out", f"paths.checkpoint_dir={tmp_path}/ckpt"]
    done = run_command(["roiseg.train", "-m", "sweep=joblib", *arguments], cwd=tmp_path)
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
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == [
        "masks.onnx",
        "masks.onnx.json",
        "masks.onnx.md",
    ]
