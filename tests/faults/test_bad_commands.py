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
from faults.test_bad_pictures import PICTURES, set_with
from helpers import run_command

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "error::UserWarning")

# overrides of a small run that does work, and words of the line that says why it does not
FOUND_BY_DOCTOR = {
    "wrong type": (["trainer.max_epochs=many"], ["trainer.max_epochs", "many", "int"]),
    "too many loss weights": (["loss.class_weights=[1,2,3,4]"], ["loss.class_weights", "4", "3"]),
    "no detector": (["extractor.onnx_path=/nowhere/x.onnx"], ["/nowhere/x.onnx", "extractor.onnx_path"]),
    "no tensor": (["extractor.layers=[/model.6/Concat_output]"], ["/model.6/Concat_output_0", "[1, 32, 8, 8]"]),
    "wrong input size": (["extractor.preprocess.image_size=[96,64]"], ["image_size", "96"]),
    "no such category": (["data.category_id=77"], ["77", "category_id"]),
    "device that is not there": (["trainer.accelerator=gpu"], ["gpu"]),
    "nothing large enough": (["data.min_roi_size=4000"], ["min_roi_size", "4000"]),
    "clicks for a model that reads none": (["clicks=random"], ["clicks=null", "point prompts"]),
    "a teacher that is not there": (
        ["distillation=teachers", "distillation.teachers=[/nowhere/t.pth]"], ["/nowhere/t.pth"],
    ),
    "unset environment variable": (["data.train_images=${oc.env:NOT_SET}"], ["NOT_SET"]),
}  # fmt: skip
FAST = FOUND_BY_DOCTOR | {
    "unknown key": (["trainer.max_epoch=3"], ["trainer.max_epoch", "nearest: trainer.max_epochs"]),
    "unknown choice": (["model=roialing"], ["model=roialing", "roialign"]),
    "unreadable override": (["extractor.layers=[a"], ["extractor.layers=[a", "quote"]),
    "unknown loss weights": (["loss.class_weights=sqrt"], ["loss.class_weights", "log", "inverse"]),
    "no checkpoint": (["ckpt_path=/nowhere/x.pth"], ["/nowhere/x.pth", "ckpt_path"]),
    "a pool without a cache": (["data/pool=augmented"], ["data/pool", "data/cache"]),
    "unknown metric": (["optimized_metric=val/iou"], ["val/iou", "val/miou"]),
    "misspelt shared option": (["model.flim=1"], ["model.flim", "model.film"]),
    "missing value": (["data.train_images=???"], ["data.train_images"]),
}
TRAIN = {
    "an unknown key that is added": (["+data.batchsize=4"], ["data", "batchsize"]),
    "an unknown group": (["decoder=unet"], ["decoder"]),
    "an unknown sampler option": (["+data.sampler.rois=4"], ["data.sampler", "rois"]),
    "an unknown class": (["optimizer._target_=torch.optim.Adamm"], ["optimizer", "Adamm"]),
    "a category in fractions": (["data.category_id=1.5"], ["data.category_id", "1.5"]),
    "nobody large enough to paste": (["data/augment/paste=people", "data.augment.paste.min_size=5000"], ["data.augment.paste.min_size"]),
    "folds of a set with itself": (["data/folds=five"], ["image id", "share no image"]),
    "an unknown term": (["loss.terms.magic.weight=1"], ["loss.terms.magic"]),
    "class weights below 0": (["loss.class_weights=[1,-1,1]"], ["loss.class_weights"]),
    "class weights of nothing": (["loss.class_weights=[0,0,0]"], ["loss.class_weights"]),
    "class weights that are not numbers": (["loss.class_weights=[nan,1,1]"], ["loss.class_weights"]),
    "lr nan": (["optimizer.lr=nan"], ["optimizer", "nan"]),
    "weight_decay below 0": (["optimizer.weight_decay=-1"], ["optimizer", "weight_decay"]),
    "max_epochs below -1": (["trainer.max_epochs=-5"], ["trainer", "max_epochs"]),
    "an unknown accelerator": (["trainer.accelerator=abacus"], ["trainer", "abacus"]),
    "no devices": (["trainer.devices=0"], ["trainer"]),
    "devices in words": (["trainer.devices=all"], ["trainer", "devices"]),
    "less than a batch of this set": (["+trainer.limit_train_batches=0.01"], ["limit_train_batches"]),
    "validation after more batches than there are": (["+trainer.val_check_interval=10000"], ["val_check_interval"]),
    "an unknown strategy": (["+trainer.strategy=magic"], ["trainer", "magic"]),
    **{
        f"{group}=null": ([f"{group}=null"], [f"{group}=null"])
        for group in ("optimizer", "loss", "model", "data", "extractor", "trainer", "paths")
    },
    **{
        f"trainer.{key}={value}": ([f"+trainer.{key}={value}"], ["trainer", word])
        for key, value, word in [
            ("strategy", "ddp_spawn", "trainer=ddp"), ("strategy", "ddp_notebook", "trainer=ddp"),
            ("enable_checkpointing", "false", "enable_checkpointing"), ("profiler", "garbage", "profiler"),
            ("logger", "false", "logger=null"), ("callbacks", "[]", "callbacks=null"), ("max_time", "soon", "duration"),
            ("barebones", "true", "barebones"),
        ]
    },
    "an unknown logger": (["logger=[paper]"], ["logger", "paper"]),
    "an output folder that TensorBoard cannot name": (["paths.output_dir=runs\udcff"], ["paths.output_dir", "UTF-8"]),
    **{
        f"{key}=5": ([f"++{key}=5"], [f"`{key}`", "5"])
        for key in ("data.reader", "data.sampler", "data.cache", "callbacks.overlays", "logger.csv")
    },
    "a number among callbacks": (["callbacks=[default,3]"], ["callbacks=3", "minimal"]),
    "a number for a group": (["optimizer=5"], ["optimizer=5", "adamw"]),
    "an output folder nobody may make": (["paths.output_dir=/proc/run"], ["/proc/run"]),
    "a checkpoint folder in a file": (["paths.checkpoint_dir=/dev/null/run"], ["/dev/null/run"]),
    "no annotations": (["data.train_annotations="], ["annotations"]),
    "an interpolation of nothing": (["data.train_images=${data.nothing}"], ["data.nothing"]),
}  # fmt: skip

OTHERS = {
    "preview as a text": ("preview", ["output=x.txt"], ["x.txt"]),
    "analyze without a file": ("analyze", ["annotations="], ["annotations"]),
    "analyze into nothing": ("analyze", ["output_dir="], ["output_dir"]),
    "analyze of rois too large": ("analyze", ["min_roi_size=9000"], ["min_roi_size"]),
    "analyze of nobody": ("analyze", ["category_id=77"], ["category_id 77"]),
    "analyze of a category in words": ("analyze", ["category_id=cow"], ["category_id", "cow", "18 (dog)"]),
    "analyze with an unknown key": ("analyze", ["grids=3"], ["grids", "grid"]),
    "export of nothing": ("export", [], ["ckpt"]),
    "analyze with a reader that is a number": ("analyze", ["annotations=x.json", "reader=5"], ["`reader`", "5"]),
    "app with limits that are a number": ("app", ["ckpt=x", "limits=5"], ["`limits`", "5"]),
    "prepare of one size twice": ("prepare", ["source=.", "sizes=[5,5]"], ["sizes"]),
    "prepare of a size in words": ("prepare", ["source=.", "sizes=[few]"], ["sizes", "few"]),
    "prepare with images otherwise": ("prepare", ["source=.", "images=move"], ["images", "'link', 'copy' or 'skip'"]),
    "prepare into nothing": ("prepare", ["source=.", "output_dir="], ["output_dir"]),
    "prepare from elsewhere": ("prepare", ["base_url=ftp://x"], ["base_url", "ftp://x"]),
    "prepare with a wrong checksum": ("prepare", ["md5.train2017=12"], ["md5", "12"]),
}  # fmt: skip

CONFIGURATIONS = {name: ("train", *case) for name, case in (FAST | TRAIN).items()} | OTHERS

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
def run(run_main, tiny_overrides, monkeypatch):
    """Run a command on the tiny set with some overrides."""

    def start(command, *overrides):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        replaced = {override.lstrip("+~").split("=")[0] for override in overrides}
        usual = []
        if command in ("train", "preview", "doctor"):
            usual = [*tiny_overrides, "trainer.max_epochs=1"]
            usual += ["~callbacks.onnx_export"] * (command == "train")
        if command == "analyze":
            usual = [next(o for o in tiny_overrides if "train_annotations" in o).removeprefix("data.train_")]
        kept = [option for option in usual if option.split("=")[0] not in replaced]
        return run_main(importlib.import_module(f"roiseg.{command}"), *kept, *overrides)

    return start


slow = [pytest.param(name, marks=pytest.mark.slow) for name in CONFIGURATIONS if name not in FAST]


@pytest.mark.parametrize("name", [*FAST, *slow])
def test_a_configuration(run, tmp_path, name):
    command, overrides, words = CONFIGURATIONS[name]
    whole_run = [tmp_path] if name == "unknown metric" else []
    assert_refused(run(command, *overrides), words, tmp_path, whole_run)


@pytest.mark.parametrize("name", FOUND_BY_DOCTOR)
def test_the_doctor_finds_it_before(run, tmp_path, name):
    overrides, words = FOUND_BY_DOCTOR[name]
    code, _ = run("doctor", *overrides, "output=doctor.json")
    findings = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    errors = " ".join(f"{f['text']} {f['todo']}" for f in findings if f["state"] == "error")
    assert code == 2 and all(word in errors for word in words), errors


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    mistake = ["extractor.onnx_path=missing.onnx", "extractor.source=null"]
    done = run_command(["roiseg.train", *mistake], tmp_path)
    assert done.stdout == ""
    assert_refused((done.returncode, done.stderr), ["missing.onnx"], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_picture(run, tmp_path, name):
    case = PICTURES[name]
    files = set_with(tmp_path / "set", case)
    outcome = run("train", f"data.train_annotations={files.json}", f"data.train_images={files.images}")
    assert_refused(outcome, ["a.jpg", case.words], tmp_path, [tmp_path / "set"])


@pytest.mark.slow
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
