"""Commands as a user runs them: in processes of their own, killed, swept, exported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from child_processes import wait_until
from helpers import ROOT, run_command

import roiseg.preview
import roiseg.train
from roiseg.inference.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


def start(arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "roiseg.train", *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_a_killed_run_resumes_to_the_same_weights_and_figures(tiny_overrides, tmp_path):
    arguments = [*tiny_overrides, "trainer.max_epochs=30", "~callbacks.onnx_export", "~callbacks.overlays"]

    def folders(name):
        return [f"paths.output_dir={tmp_path}/{name}/out", f"paths.checkpoint_dir={tmp_path}/{name}/ckpt"]

    process = start([*arguments, *folders("killed")], tmp_path)
    saved = tmp_path / "killed/ckpt"
    wait_until(lambda: len(list(saved.glob("*.pth"))) >= 3, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = sorted((tmp_path / "killed/ckpt").glob("*.pth"))
    assert 3 <= len(left) < 30
    for path in left:
        read_checkpoint(path)  # whole, every one
    again = run_command(["roiseg.train", *arguments, *folders("killed"), "ckpt_path=last"], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    whole = run_command(["roiseg.train", *arguments, *folders("whole")], cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    resumed, expected = (
        json.loads((tmp_path / n / "out/summary.json").read_text()) for n in ("killed", "whole")
    )
    assert resumed["resumed_from"]
    assert resumed["history"] == expected["history"]
    ends = [read_checkpoint(sorted((tmp_path / n / "ckpt").glob("*.pth"))[-1]) for n in ("killed", "whole")]
    assert all(torch.equal(ends[0]["state_dict"][k], ends[1]["state_dict"][k]) for k in ends[1]["state_dict"])


def test_a_sweep_gives_each_run_its_own_folders(tiny_overrides, tmp_path):
    done = run_command(
        ["roiseg.train", "-m", *tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1",
         "model.num_classes=2,3", "seed=1,2"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(p.read_text()) for p in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert len(summaries) == 4
    assert len({s["checkpoint_dir"] for s in summaries}) == 4
    assert {(tuple(o for o in s["overrides"] if o[:4] in ("mode", "seed"))[-2:]) for s in summaries} == {
        (f"model.num_classes={k}", f"seed={s}") for k in (2, 3) for s in (1, 2)
    }
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


def test_one_bad_job_of_a_sweep_does_not_stop_the_others(tiny_overrides, tmp_path):
    done = run_command(
        ["roiseg.train", "-m", *tiny_overrides, "~callbacks.onnx_export", "trainer.max_epochs=1",
         "model.num_classes=7,3"],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "`model.num_classes` is 7: it must be less than or equal to 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/summary.json"))) == 1


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
    assert [p.name for p in tmp_path.iterdir()] == ["masks.onnx"]


def test_preview_draws_the_training_samples(run_main, tiny_overrides, tmp_path):
    assert run_main(roiseg.preview, *tiny_overrides, "data/augment=heavy", "output=p.png")[0] == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_help_names_groups_and_first_commands():
    done = run_command(["roiseg.train", "--help"])
    assert done.returncode == 0
    for text in ("model=roialign loss=ce_dice", "experiment [null]: ", "coco128_yolox", "trainer.max_epochs"):
        assert text in done.stdout
