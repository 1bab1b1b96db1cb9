"""Sweeps in a SLURM queue: by submitit's local executor, and by its SLURM executor on a stand-in for SLURM."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from child_processes import wait_until
from helpers import run_command, start_command

import roiseg.train

pytestmark = pytest.mark.slow

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'roiseg[slurm]'")

QUICK = ["callbacks=minimal", "trainer.max_epochs=1"]

# sbatch starts every job of an array on this machine, scontrol requeue starts one again, srun runs its command
STAND_INS = {
    "sbatch": """
        cp "${@: -1}" HERE/script.sh
        last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' HERE/script.sh)
        for i in $(seq 0 $last); do HERE/scontrol requeue 77_$i; done
        echo "Submitted batch job 77" """,
    "scontrol": """
        echo "$@" >> HERE/queued
        i=${2#*_}
        export SLURM_JOB_ID=77$i SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$i SLURM_JOB_NAME=train SLURM_NTASKS=1
        export SLURM_NTASKS_PER_NODE=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NNODES=1
        export SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=localhost
        bash HERE/script.sh >> HERE/log$i 2>&1 < /dev/null & """,
    "srun": """
        while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
        echo $$ > HERE/pid$SLURM_ARRAY_TASK_ID
        exec "$@" """,
    "sacct": "echo 'JobID|State|NodeList'",
}


@pytest.fixture
def slurm(tmp_path):
    """Folder with the stand-ins."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in STAND_INS.items():
        path = folder / name
        path.write_text("#!/bin/bash\n" + script.replace("HERE", str(folder)) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def summaries(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/sweeps/*/*/summary.json"))]


def test_jobs_by_the_local_executor_have_folders_of_their_own_and_one_may_fail(tiny_overrides, tmp_path):
    arguments = ["-m", "sweep=submitit_local", *tiny_overrides, *QUICK, "model.num_classes=2,7"]
    done = run_command(["roiseg.train", *arguments], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("`model.num_classes` is 7: it must be less than or equal to 3")
    assert "Traceback" not in done.stderr
    (summary,) = summaries(tmp_path)
    assert summary["output_dir"].endswith("/0_roialign_ce_dice")
    assert len(list(tmp_path.glob("outputs/sweeps/*/.submitit/*/*_log.out"))) == 2


def test_a_preempted_job_is_queued_again_and_goes_on(tiny_overrides, slurm, tmp_path):
    arguments = [
        "-m", "sweep=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90", *tiny_overrides,
        "callbacks=minimal", "trainer.max_epochs=40", "ckpt_path=last", "seed=1,2",
    ]  # fmt: skip
    path = {"PATH": f"{slurm}:{os.environ['PATH']}"}
    process = start_command(["roiseg.train", *arguments], tmp_path, path, stdout=subprocess.DEVNULL)
    saved = "checkpoints/*_0_roialign_ce_dice/*.pth"
    wait_until(lambda: list(tmp_path.glob(saved)), lambda: process.poll() is None)
    os.kill(int((slurm / "pid0").read_text()), signal.SIGUSR2)  # what SLURM sends before the time is up
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    queued = sorted((slurm / "queued").read_text().splitlines())
    assert queued == ["requeue 77_0", "requeue 77_0", "requeue 77_1"]
    script = (slurm / "script.sh").read_text()
    options = "partition=gpu time=90 gpus-per-node=1 cpus-per-task=8 array=0-1%2 signal=USR2@120"
    assert all(f"#SBATCH --{option}\n" in script for option in options.split())
    preempted, other = summaries(tmp_path)
    assert Path(preempted["resumed_from"]).parent == Path(preempted["checkpoint_dir"])
    assert other["resumed_from"] is None
    assert [epoch["epoch"] for epoch in preempted["history"]] == list(range(1, 41))
    assert len(list(tmp_path.glob("checkpoints/*"))) == 2


def test_without_slurm_the_sweep_says_so(tiny_overrides, run_main, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, stderr = run_main(roiseg.train, "-m", "sweep=slurm", *tiny_overrides, "seed=1,2")
    assert code == 2
    assert "sweep=joblib" in stderr.strip().splitlines()[-1]
