"""Several checkpoints as one model, in the commands that take `ckpt=[A,B]`."""

import json

import numpy as np
import pytest
import torch
from composing import command_configuration, composed
from helpers import halves
from helpers.commands import changed_checkpoint

import roiseg.app
import roiseg.evaluate
import roiseg.export
import roiseg.predict
from roiseg.common.errors import UserError
from roiseg.common.files import read_json
from roiseg.data.images import read_image
from roiseg.decide import decide
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import Threshold
from roiseg.inference.predictor import Predictor
from roiseg.report import report
from roiseg.reporting.runs import read_run
from roiseg.train import train

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("single_thread")]


@pytest.fixture
def pair(finished):
    """The checkpoints of both epochs."""
    return sorted(finished.checkpoint.parent.glob("*.pth"))


def listed(paths):
    return f"ckpt=[{','.join(map(str, paths))}]"


def test_probabilities_of_the_predictor_are_averaged(pair, coco_set):
    image, box = read_image(coco_set.images / "a.jpg"), [[10.5, 12, 49, 70]]
    found = []
    for paths in (pair[0], pair[1], pair):
        predictor = Predictor.from_checkpoint(paths, device="cpu", decision=Threshold())
        predictor.set_image(image)
        found.append(predictor.predict(box).probabilities[0])
    one, two, both = (np.asarray(values) for values in found)
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-5)
    assert np.abs(one - two).max() > 0.01


def test_twice_the_same_checkpoint_measures_as_once(pair, run_main, tmp_path):
    told = {}
    for name, given in (
        ("one", f"ckpt={pair[1]}"),
        ("twice", listed([pair[1], pair[1]])),
        ("both", listed(pair)),
    ):
        code, error = run_main(
            roiseg.evaluate, given, f"output_dir={tmp_path / name}", "data.num_workers=0", "device=cpu"
        )
        assert code == 0, error
        told[name] = read_json(tmp_path / name / "evaluation.json", "evaluation")
    test = {name: content["evaluations"]["checkpoint"]["test"] for name, content in told.items()}
    assert test["twice"] == pytest.approx(test["one"], abs=1e-5)
    assert test["both"] != pytest.approx(test["one"], abs=1e-5)
    assert all(path.name in told["both"]["models"]["checkpoint"]["file"] for path in pair)
    run = read_run(tmp_path / "both")
    assert run.config["model._target_"] == "roiseg.decoders.ensemble.EnsembleDecoder"
    assert run.summary["parameters"]["total"] == 2 * read_run(tmp_path / "one").summary["parameters"]["total"]


def test_images_of_another_fold_may_be_known_to_a_member(pair, refused, finished, coco_set, tmp_path):
    folds = [{"_target_": "roiseg.data.folds.Folds", "number": 2, "held_out": fold} for fold in (0, 1)]
    other = [changed_checkpoint(path, tmp_path / f"{n}.pth", folds=folds[n]) for n, path in enumerate(pair)]
    refused(roiseg.evaluate, [listed(other)], other[0], other[1], "data.folds", "data.val_annotations=FILE")
    model = load_model(other)  # to predict, all folds are the best ensemble
    assert (model.path, model.others) == (other[0], other[1:])


def test_members_that_do_not_fit_are_refused_with_what_differs(pair, tmp_path):
    content = torch.load(pair[0], weights_only=True)
    content["roiseg"]["config"]["data"]["category_id"] = 7
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"cannot be an ensemble: data.category_id is 1 in the first and 7"):
        load_model([pair[0], tmp_path / "other.pth"])
    with pytest.raises(UserError, match="empty list"):
        load_model([])


@pytest.mark.slow
def test_an_export_is_one_verified_file_with_a_name_of_its_own(pair, run_main, refused, tmp_path):
    refused(roiseg.export, [listed(pair)], "output must be given")
    out = tmp_path / "both.onnx"
    code, error = run_main(roiseg.export, listed(pair), f"output={out}")
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "both.onnx.json").read_text())
    code, error = run_main(roiseg.export, f"check={out}", listed(pair), "runs=1")
    assert (code, error) == (0, "")
    refused(roiseg.export, [f"check={out}", f"ckpt={pair[0]}", "runs=1"], "differs from")


def test_predictions_and_the_boxes_of_the_training(pair, run_main, coco_set, tmp_path):
    code, error = run_main(
        roiseg.predict, listed(pair), f"source={coco_set.images}/a.jpg", "boxes=coco", "output_dir=out"
    )
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "out/coco_results.json").read_text())


def test_the_page_names_the_first_file_and_counts_the_others(pair):
    names = roiseg.app.page_names([pair, [pair[1]]])
    assert names == [f"{pair[0].name} and 1 more", pair[1].name]


@pytest.mark.slow
def test_decide_measures_the_mean_of_the_seeds_and_report_pairs_it_with_each(
    coco_set, onnx_file, tiny_overrides, tmp_path
):
    halves(coco_set, tmp_path)
    for fold, seed in ((0, 1), (0, 2), (1, 1), (1, 2)):
        train(composed([
            *tiny_overrides, "data/folds=five", "data.folds.number=2", f"data.folds.held_out={fold}", f"seed={seed}",
            f"data.train_annotations={tmp_path}/train.json", f"data.val_annotations={tmp_path}/val.json",
            "callbacks=[minimal]", f"paths.output_dir={tmp_path}/runs/{fold}{seed}", "trainer.max_epochs=1",
        ], tmp_path))  # fmt: skip
    given = [f"runs=[{tmp_path}/runs]", f"output_dir={tmp_path}/out"]
    both = decide(command_configuration("decide", *given, "ensemble=true"))
    each = decide(command_configuration("decide", *given))
    assert sorted(path.name for path in (both / "votes").iterdir()) == ["0_01", "2_11"]
    assert len(list(both.glob("checkpoints/*/[12]/*.pth"))) == 4
    assert read_run(both / "target/0_01").seeds == [1, 2]
    output = report(command_configuration("report", f"runs=[{both},{each}]", "baseline='decision=target'"))
    found = {row["variant"]: row for row in json.loads((output / "report.json").read_text())["variants"]}
    assert "An ensemble is paired with the run of each of its seeds" in (output / "report.md").read_text()
    row = found["ensemble=2, decision=target"]
    assert (row["pairs"], row["seeds"], row["sd_seeds"]) == (4, 2, None)
