"""Decisions fitted on the held-out folds of finished runs."""

import itertools
import json
import re
import shutil

import pytest
from composing import command_configuration, composed
from helpers import halves

from roiseg.common.errors import UserError
from roiseg.decide import decide
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import Votes
from roiseg.report import report
from roiseg.reporting.runs import read_rois
from roiseg.train import train

RULES = ("target", "argmax", "threshold", "bias", "votes", "exclusive")


@pytest.fixture(scope="module")
def runs(coco_set, onnx_file, tiny_overrides, tmp_path_factory):
    """Two runs on two folds: (their folder, their summaries)."""
    root = tmp_path_factory.mktemp("folds")
    halves(coco_set, root)
    summaries = []
    for fold in (0, 1):
        overrides = [
            *tiny_overrides, "data/folds=five", "data.folds.number=2", f"data.folds.held_out={fold}",
            f"data.train_annotations={root}/train.json", f"data.val_annotations={root}/val.json",
            "callbacks=[minimal]", f"paths.output_dir={root}/runs/{fold}",
        ]  # fmt: skip
        summaries.append(train(composed(overrides, root)).content())
    return root / "runs", summaries


def test_every_rule_becomes_a_run_that_the_report_reads(runs, tmp_path, capsys):
    folder = decide(command_configuration("decide", f"output_dir={tmp_path}/out", f"runs=[{runs[0]}]"))
    assert {path.name for path in folder.glob("[!.]*")} == {*RULES, "checkpoints"}
    for rule, fold in itertools.product(RULES, "01"):
        given, found = (
            read_rois(f / "instances.csv") for f in (runs[0] / fold, folder / rule / f"{fold}_{fold}")
        )
        assert found.names == given.names
    table = capsys.readouterr().out
    assert all(rule in table for rule in RULES)
    output = report(command_configuration("report", f"runs=[{folder}]", "baseline='decision=target'"))
    variants = json.loads((output / "report.json").read_text())["variants"]
    assert {variant["variant"] for variant in variants} == {f"decision={rule}" for rule in RULES}
    # the copies of the checkpoints have what was fitted on both folds; with folds, a training fits nothing
    copies = {load_model(copy).decision for copy in folder.glob("checkpoints/*/*.pth")}
    assert len(list(folder.glob("checkpoints/*/*.pth"))) == 2 and len(copies) == 1
    assert isinstance(copies.pop(), Votes)
    unfitted = [load_model(summary["best_checkpoint"]).decision.unfitted for summary in runs[1]]
    assert unfitted == [["weight", "bias"]] * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["runs=[{}/0]"], "runs of two folds or more are needed"),
        (["runs=[{}]", "write=vote"], r"there is no `vote`.*votes"),
    ],
)
def test_one_fold_and_an_unknown_rule_are_refused(runs, tmp_path, given, message):
    overrides = [word.format(runs[0]) for word in given]
    with pytest.raises(UserError, match=message):
        decide(command_configuration("decide", f"output_dir={tmp_path}/out", *overrides))
    assert not (tmp_path / "out").exists()


def test_an_evaluation_has_no_checkpoint_to_decide_with(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "evaluated")
    for path in tmp_path.glob("evaluated/*/summary.json"):
        summary = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in summary.items() if "checkpoint" not in key}))
    with pytest.raises(UserError, match="is an evaluation, without a checkpoint: give the folder of the run"):
        decide(command_configuration("decide", f"output_dir={tmp_path}/out", f"runs=[{tmp_path}/evaluated]"))


@pytest.mark.slow
def test_runs_of_two_sweeps_with_equal_folder_names_are_kept_apart(runs, tmp_path):
    sweeps = [runs[0], tmp_path / "again"]
    shutil.copytree(*sweeps)
    for path in (*sweeps[1].glob("*/config.yaml"), *sweeps[1].glob("*/summary.json")):
        path.write_text(re.sub(r'(?m)^( *"?seed"?): 0\b', r"\1: 7", path.read_text()))
    given = ",".join(map(str, sweeps))
    folder = decide(command_configuration("decide", f"output_dir={tmp_path}/out", f"runs=[{given}]"))
    for place in (*(folder / rule for rule in RULES), folder / "checkpoints"):
        assert sorted(path.name for path in place.iterdir()) == ["0_0", "1_1", "2_0", "3_1"]
