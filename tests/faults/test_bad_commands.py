"""Commands given bad input end in exactly one line on stderr and code 2, and leave nothing half-written.

All bad configurations, and a sample of the bad pictures, which end a training in the middle; all of them with
`ROISEG_FAULTS=all`. Files that are refused before anything starts are in the tests beside this one.
"""

import importlib
import json
import os
import random
import re

import pytest
from faults.bad_configurations import CONFIGURATIONS
from faults.bad_pictures import PICTURES
from faults.test_bad_pictures import set_with

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "error::UserWarning"),
]

BAD = sorted(name for name, case in PICTURES.items() if case.words)
SAMPLE = BAD if os.environ.get("ROISEG_FAULTS") == "all" else random.Random(0).sample(BAD, 5)
OF_A_FAILED_RUN = {"config.yaml", ".roiseg_run", "metrics.csv", "hparams.yaml"}  # whole, of epochs before


def assert_refused(outcome, words, folder, inputs=()):
    """One line with these words, code 2; beside the inputs nothing but whole files."""
    code, stderr = outcome
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1, stderr
    assert lines[0].startswith("roiseg: error: ") and all(word in lines[0] for word in words), stderr
    for path in folder.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(known) for known in inputs):
            assert not re.fullmatch(r"\..+-[a-z0-9_]{8}(\.\w+)?", path.name), path
            kept = path.name in OF_A_FAILED_RUN or "tfevents" in path.name or "index" in path.parts
            assert kept, path


@pytest.fixture
def run(run_main, tiny_overrides, tmp_path):
    """Run a command on the tiny set with some overrides."""

    def start(command, *overrides):
        replaced = {override.lstrip("+~").split("=")[0] for override in overrides}
        usual = []
        if command in ("train", "preview"):
            usual = [*tiny_overrides, "trainer.max_epochs=1"]
            usual += ["~callbacks.onnx_export"] * (command == "train")
        if command == "analyze":
            usual = [next(o for o in tiny_overrides if "train_annotations" in o).removeprefix("data.train_")]
        kept = [option for option in usual if option.split("=")[0] not in replaced]
        return run_main(importlib.import_module(f"roiseg.{command}"), *kept, *overrides)

    return start


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration(run, tmp_path, monkeypatch, name):
    command, overrides, words = CONFIGURATIONS[name]
    assert_refused(run(command, *overrides), words, tmp_path)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_picture(run, tmp_path, name):
    case = PICTURES[name]
    files = set_with(tmp_path / "set", case)
    outcome = run("train", f"data.train_annotations={files.json}", f"data.train_images={files.images}")
    assert_refused(outcome, ["a.jpg", case.words], tmp_path, [tmp_path / "set"])


@pytest.mark.parametrize("name", SAMPLE)
def test_a_picture_that_is_skipped(run, tmp_path, name):
    files = set_with(tmp_path / "set", PICTURES[name])
    where = [f"data.train_annotations={files.json}", f"data.train_images={files.images}"]
    code, stderr = run("train", *where, "data.on_error=skip", "data.batch_size=1", "test=false")
    assert (code, stderr) == (0, "")
    (summary,) = (json.loads(path.read_text()) for path in tmp_path.rglob("summary.json"))
    assert summary["skipped_images"]["train"]["times"] == 1
    assert "a.jpg" in summary["skipped_images"]["train"]["reasons"][0]
    assert summary["skipped_images"]["val"] == {"times": 0, "reasons": []}
