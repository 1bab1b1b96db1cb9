"""Any key of any command given a value of a wrong type works, or ends in one line that names it and nothing else."""

import importlib
import os
import random

import pytest
import werkzeug.serving
from composing import command_configuration
from omegaconf import OmegaConf

import roiseg.train
from roiseg.config.evaluation_setup import register_checkpoint_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

VALUES = ("[1]", "3", "null", "x", "{}")
TARGETS = (*VALUES, "os.system", "roiseg.nothing", "collections.OrderedDict")
# keys whose line names the file that was given
FILES = {
    "ckpt", "compare", "onnx", "onnx_path", "check", "source", "boxes", "annotations", "runs", "ckpt_path",
}  # fmt: skip
COMMANDS = (
    "analyze", "app", "decide", "demo", "doctor", "evaluate", "export", "predict", "prepare", "preview", "report", "train",
)  # fmt: skip
WRONG = {
    "train": [
        "extractor.preprocess=[1]", "extractor={}", "callbacks=3", "callbacks.history._target_=os.system",
        "data.augment=x", "data.reader._target_=os.system", "model._target_=roiseg.nothing", "model._target_=[1]",
        "loss={}", "loss.terms.ce.term=x", "optimizer._target_=os.system", "scheduler._target_=x", "test_best=x",
    ],
    "predict": ["ckpt=[1]", "ckpt={}", "tta={}", "writers.coco=3", "writers.coco._target_=os.system", "decision={}"],
    "analyze": ["reader._target_=3", "reader={}"],
    "app": ["limits={}", "limits._target_=os.system", "postprocess={}"],
    "decide": ["rules={}", "rules=3", "rules.votes=3", "rules.votes._target_=os.system", "runs=3"],
    "evaluate": ["data={}", "tta={}", "decision={}"],
}  # fmt: skip


def keys(command):
    """The top-level keys of a command, and all nodes and targets below them."""

    def below(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield f"{prefix}{key}"
                yield from below(value, f"{prefix}{key}.")
            elif not prefix or key == "_target_":
                yield f"{prefix}{key}"

    register_checkpoint_data([])
    return list(below(OmegaConf.to_container(command_configuration(command), resolve=False)))


@pytest.fixture
def run(run_main, finished, tmp_path, monkeypatch):
    """Run a command with an override: (code, lines on stderr, what it left in its folder)."""
    files = {override.split("=")[0]: override.split("=", 1)[1] for override in finished.overrides}
    annotations, images = (files[f"data.train_{kind}"] for kind in ("annotations", "images"))
    training = [*finished.overrides, "trainer.max_epochs=1", "~callbacks.onnx_export"]
    given = {
        "analyze": [f"annotations={annotations}"], "app": [f"ckpt={finished.checkpoint}"],
        "decide": [f"runs=[{finished.output}]"],
        "demo": ["train_images=1", "val_images=1", "output=made/x.onnx", "root=made/data"],
        "doctor": training, "evaluate": [f"ckpt={finished.checkpoint}"],
        "export": [f"ckpt={finished.checkpoint}", "output=made.onnx"],
        "predict": [f"ckpt={finished.checkpoint}", f"source={images}", "boxes=coco"],
        "prepare": ["source=/nowhere"], "preview": [*training, "samples=1"],
        "report": [f"runs=[{finished.output}]", "resamples=100"],
        "train": [*training, "test=false"],
    }  # fmt: skip

    def trained(*arguments):
        raise SystemExit(0)

    monkeypatch.setattr(roiseg.train, "fit", trained)
    monkeypatch.setattr(werkzeug.serving.BaseWSGIServer, "serve_forever", lambda self: self.server_close())

    def start(command, override, folder):
        key = override.split("=")[0]
        kept = [word for word in given[command] if word.lstrip("~").split("=")[0] != key]
        folder.mkdir()
        code, stderr = run_main(importlib.import_module(f"roiseg.{command}"), *kept, override, folder=folder)
        return code, [line for line in stderr.splitlines() if line.strip()], sorted(folder.rglob("*"))

    return start


def problem(command, override, outcome):
    """What is wrong with an outcome; None if it is as promised."""
    (code, lines, left), (key, value) = outcome, override.split("=", 1)
    if code == 0:
        return None
    if command == "doctor" and code == 2 and not lines:  # it tells mistakes in a table
        return None
    if code != 2 or len(lines) != 1 or not lines[0].startswith("roiseg: error: "):
        return f"{code}, {lines}"
    if command in ("decide", "prepare") and ("runs of two folds" in lines[0] or "/nowhere" in lines[0]):
        return None  # the value is accepted, and the rest is not
    if left:
        return f"wrote {left[:3]}"
    names = [key, key.replace(".", "/"), key.removesuffix("._target_"), *[value] * (key in FILES)]
    return None if any(name in lines[0] for name in names) else f"does not name the key: {lines}"


def problems(run, command, overrides, tmp_path):
    found = {}
    for number, override in enumerate(overrides):
        try:
            outcome = run(command, override, tmp_path / str(number))
        except Exception as error:
            found[override] = repr(error)
            continue
        if wrong := problem(command, override, outcome):
            found[override] = wrong
    return found


@pytest.mark.parametrize("command", WRONG)
def test_a_value_of_a_wrong_type_is_one_line_that_names_the_key(run, tmp_path, command):
    assert problems(run, command, WRONG[command], tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_every_command_with_values_of_wrong_types(run, tmp_path, command):
    """A sample of 25 per command; all with ROISEG_FAULTS=all."""
    overrides = [
        f"{key}={value}"
        for key in keys(command)
        for value in (TARGETS if key.endswith("_target_") else VALUES)
    ]
    if os.environ.get("ROISEG_FAULTS") != "all":
        overrides = random.Random(0).sample(overrides, min(25, len(overrides)))
    assert problems(run, command, overrides, tmp_path) == {}
