"""Runs with a feature cache: what they find, and that they learn the same."""

import json

import pytest
import torch
from helpers import run_command

pytestmark = pytest.mark.slow

POOL = ("data/augment=heavy", "data/pool=augmented", "data.pool.size=2")
PASTE = ("data/augment/paste=people", "data.augment.paste.probability=0.8", "data.augment.paste.min_size=16")


def weights(summary):
    return torch.load(summary["best_checkpoint"], weights_only=True)["state_dict"]


@pytest.mark.parametrize(("codec", "pasted"), [("Half", ()), ("Int8", ()), ("Half", PASTE)])
def test_the_second_run_finds_the_features_and_learns_the_same(run_train, tmp_path, codec, pasted):
    options = (
        *POOL, *pasted, "data/cache=disk", f"paths.cache_dir={tmp_path}/cache",
        f"data.cache.codec._target_=roiseg.extractor.cache.codec.{codec}",
    )  # fmt: skip
    cold = run_train(tmp_path / "cold", *options)
    warm = run_train(tmp_path / "warm", *options)
    # training draws from 5 images x 2 views, validation, the fit of the decision and the test see 5 plain ones
    assert 5 < cold["feature_cache"]["computed"] <= 15
    assert warm["feature_cache"] == {"hit": 2 * 5 + 4 * 5, "computed": 0, "rejected": 0, "damaged": 0}
    assert warm["final"] == cold["final"]
    for name, value in weights(cold).items():
        assert torch.equal(value, weights(warm)[name]), name
    written = json.loads((tmp_path / "warm/outputs/run/summary.json").read_text())
    assert written["feature_cache"] == warm["feature_cache"]


def test_processes_of_one_run_share_the_cache_and_leave_it_to_the_next(tiny_overrides, run_train, tmp_path):
    options = ["data/augment=null", "data/cache=disk", f"paths.cache_dir={tmp_path}/cache"]
    common = [o for o in tiny_overrides if not o.startswith("trainer=")]
    two = [
        "trainer=ddp", "trainer.accelerator=cpu", f"paths.output_dir={tmp_path}/two",
        "~callbacks.onnx_export",
    ]  # fmt: skip
    done = run_command(["roiseg.train", *common, *options, *two], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "two/summary.json").read_text())["feature_cache"]
    # 2 epochs of 3 images and 3 + 2 to evaluate; it met each of the 5 images it had to compute once
    assert first["computed"] <= 5
    assert first["computed"] + first["hit"] >= 2 * 3 + 3 * 2
    assert len(list((tmp_path / "cache").glob("*/??/*"))) == 5
    after = run_train(tmp_path / "one", *options)
    assert after["feature_cache"]["computed"] == 0


def swept_caches(overrides, folder):
    """Run a sweep with a disk cache; return what each job's cache did, in the order of the jobs."""
    options = ["callbacks=minimal", "trainer.max_epochs=1", "data/augment=null", "data/cache=disk"]
    done = run_command(["roiseg.train", "-m", *overrides, *options], cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr
    summaries = sorted(
        folder.glob("outputs/sweeps/*/*/summary.json"), key=lambda p: int(p.parent.name.split("_")[0])
    )
    return [json.loads(path.read_text())["feature_cache"] for path in summaries]


@pytest.mark.parametrize("project", [[], ["extractor.project=4"]], ids=["all channels", "projected"])
def test_jobs_of_a_sweep_extract_once_together(tiny_overrides, tmp_path, project):
    jobs = ["model.num_classes=2,3", "seed=1,2,3"]
    first, *others = swept_caches([*tiny_overrides, *project, *jobs], tmp_path)
    assert first["computed"] == 5
    assert len(others) == 5 and all(counts["computed"] == 0 < counts["hit"] for counts in others)
    assert len(list((tmp_path / "data/feature_cache").glob("*/??/*"))) == 5


def test_jobs_side_by_side_share_projection_and_cache(tiny_overrides, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    counts = swept_caches(["sweep=joblib", *tiny_overrides, "extractor.project=4", "seed=1,2"], tmp_path)
    assert len(counts) == 2 and 5 <= sum(count["computed"] for count in counts) <= 2 * 5
    assert len(list((tmp_path / "data/feature_cache").glob("*/??/*"))) == 5
    assert len(list((tmp_path / "data/index").glob("projection_*.pt"))) == 1
