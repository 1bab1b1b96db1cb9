"""`python -m roiseg.doctor scout=N`: which tensors tell the target from the rest."""

import json
import shutil

import numpy as np
import pytest
import torch
from run_folders import rois, write_run
from tiny_run import LAYER, SECOND_LAYER

import roiseg.doctor
from roiseg.diagnosis.scout import Probed, Truth, cheapest, rank_correlation

FOLDS = torch.arange(12) % 4


@pytest.fixture
def truth():
    """Half planes at random angles, each a mask [12, 56, 56]; some cells do not count."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(12, generator=generator) * 6.28
    y, x = torch.meshgrid(torch.linspace(-1, 1, 56), torch.linspace(-1, 1, 56), indexing="ij")
    target = angles.cos()[:, None, None] * x + angles.sin()[:, None, None] * y > 0
    return Truth(target, torch.rand(12, 56, 56, generator=generator) > 0.1, FOLDS)


def test_features_that_hold_the_mask_beat_others_which_beat_noise(truth):
    mask = torch.nn.functional.avg_pool2d(truth.target[:, None].float(), 2)
    noise = torch.randn(12, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    weak = mask + 2 * noise[:, :1]
    perfect, some, nothing = (truth.probe([one]) for one in (mask, weak, noise))
    assert perfect > 0.97 and perfect > some + 0.05 > some > nothing + 0.05
    assert truth.probe([noise, mask]) > 0.95  # together with others, too
    assert truth.probe([1000 * mask]) == pytest.approx(perfect, abs=1e-3)  # units do not matter


def test_the_probe_is_a_ridge_regression_fitted_on_the_other_folds(truth):
    features = torch.randn(12, 2, 28, 28, generator=torch.Generator().manual_seed(2))
    values = features.numpy().astype(np.float64)
    values /= values.std(axis=(0, 2, 3), ddof=1).mean()
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    c = (np.arange(28) + 0.5) / 14 - 1
    columns = [padded[:, k, i : i + 28, j : j + 28] for k in range(2) for i in range(3) for j in range(3)]
    columns += [
        np.broadcast_to(c[None] ** i * c[:, None] ** j, (12, 28, 28)) for i in range(5) for j in range(5 - i)
    ]
    inputs = np.stack(columns, axis=-1)
    wanted = truth.target.numpy().reshape(12, 28, 2, 28, 2).mean(axis=(2, 4))
    ious = []
    for roi, fold in enumerate(FOLDS.tolist()):
        others = FOLDS.numpy() != fold
        a, b = inputs[others].reshape(-1, len(columns)), wanted[others].ravel()
        gram = a.T @ a
        ridge = 1e-3 * gram.trace() / len(gram) * np.eye(len(gram))
        share = torch.from_numpy(inputs[roi] @ np.linalg.solve(gram + ridge, a.T @ b))
        share = torch.nn.functional.interpolate(share[None, None], scale_factor=2, mode="bilinear")[0, 0]
        mask, target, counted = share.numpy() >= 0.4, truth.target[roi].numpy(), truth.counted[roi].numpy()
        ious.append((mask & target & counted).sum() / ((mask | target) & counted).sum())
    assert truth.probe([features]) == pytest.approx(np.mean(ious), abs=2e-3)


def test_best_for_its_cost_means_better_than_all_that_cost_no_more():
    numbers = {"a": (0.5, 0.2), "b": (0.4, 0.3), "c": (0.6, 0.3), "d": (0.6, 0.9), "e": (0.7, 0.9)}
    found = cheapest([Probed((name,), (8,), iou, cost) for name, (iou, cost) in numbers.items()])
    assert [one.layers for one in found] == [("a",), ("c",), ("e",)]


def test_the_command_ranks_tensors_and_combinations(run_main, tiny_overrides, tmp_path):
    out = tmp_path / "scout.json"
    code, stderr = run_main(roiseg.doctor, *tiny_overrides, "scout=6", f"output={out}")
    assert code == 0, stderr
    results = json.loads(out.read_text())
    single = [one for one in results if len(one["layers"]) == 1]
    assert [one["iou"] for one in single] == sorted((one["iou"] for one in single), reverse=True)
    assert all(0 < one["iou"] < 1 and 0 < one["cost"] <= 1 for one in results)
    assert [len(one["layers"]) for one in results[len(single) :]] == [2, 3][: len(single) - 1]
    assert single[0]["layers"][0] in run_main.printed


def test_the_ranks_are_compared_with_those_of_runs():
    probed = [
        Probed((name,), (8,), iou, 0.5) for name, iou in {"a": 0.6, "b": 0.5, "c": 0.4, "d": 0.1}.items()
    ]
    trained = {("a",): 0.7, ("b",): 0.6, ("c",): 0.65, ("d",): 0.2, ("a", "b"): 0.9}
    assert rank_correlation(probed, trained) == (4, pytest.approx(0.8))  # 1 - 6 * 2 / (4 * 15)
    assert rank_correlation(probed[:2], trained) is None


def write_runs(folder, *runs, **settings):
    """Write runs of (tensor, seed, IoUs) that test the same ROIs."""
    for number, (layer, seed, ious) in enumerate(runs):
        write_run(folder / str(number), ious, seed, rows=ROWS, extractor__layers=[layer], **settings)


ROWS = rois(images=1, each=2)


def test_the_command_shows_what_runs_reached(run_main, tiny_overrides, tmp_path):
    write_runs(
        tmp_path / "runs", (LAYER, 0, [0.5, 0.7]), (LAYER, 1, [0.9, 0.7]), (SECOND_LAYER, 0, [0.2, 0.3])
    )
    code, stderr = run_main(roiseg.doctor, *tiny_overrides, "scout=6", f"runs={tmp_path / 'runs'}")
    assert code == 0, stderr
    assert "trained" in run_main.printed
    assert "0.700" in run_main.printed and "0.250" in run_main.printed
    assert "rank correlation" not in run_main.printed  # of two


def test_runs_of_another_detector_or_recipe_are_refused(refused, tiny_overrides, tmp_path):
    command = [*tiny_overrides, "scout=6", f"runs={tmp_path}"]
    write_runs(tmp_path / "a", (LAYER, 0, [0.5, 0.7]), summary={"extractor_sha256": "0" * 64})
    refused(roiseg.doctor, command, "another detector")
    shutil.rmtree(tmp_path / "a")
    write_runs(tmp_path / "b", (LAYER, 0, [0.5, 0.7]), model__num_classes=2)
    write_runs(tmp_path / "c", (SECOND_LAYER, 0, [0.5, 0.7]), model__num_classes=3)
    refused(roiseg.doctor, command, "model.num_classes")


@pytest.mark.parametrize(
    ("option", "word"), [("scout=2", "scout"), ("tensors=nothing_like_it", "tensors"), ("scout=0", "scout")]
)
def test_what_cannot_be_probed_is_one_line(refused, tiny_overrides, option, word):
    refused(roiseg.doctor, [*tiny_overrides, "scout=6", option], word)


@pytest.mark.realdata
def test_the_order_is_that_of_trained_decoders(run_main, realdata, tmp_path):
    out = tmp_path / "scout.json"
    detector = f"extractor.onnx_path={realdata}/yolox_nano.onnx"
    code, stderr = run_main(roiseg.doctor, "experiment=coco128_yolox", detector, "scout=50", f"output={out}")
    assert code == 0, stderr
    iou = {one["layers"][0]: one["iou"] for one in json.loads(out.read_text()) if len(one["layers"]) == 1}
    assert min(iou["931"], iou["952"]) > iou["777"] > max(iou["1044"], iou["1086"], iou["1128"], iou["1103"])
