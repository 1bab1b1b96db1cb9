"""Every mistake in a training ends in one line that names what to mend, exit code 2, and nothing half-written."""

import json

import pytest
from helpers import run_command

import roiseg.doctor
import roiseg.export
import roiseg.train

MISTAKES = {
    "unknown key": (["trainer.max_epoch=3"], ["trainer.max_epoch", "nearest: trainer.max_epochs"]),
    "unknown choice": (["model=roialing"], ["model=roialing", "roialign"]),
    "unknown experiment": (["experiment=coco_persons"], ["coco_persons", "nearest: coco_person"]),
    "unreadable override": (["extractor.layers=[a"], ["extractor.layers=[a", "quote"]),
    "wrong type": (["trainer.max_epochs=many"], ["trainer.max_epochs", "many", "int"]),
    "wrong model value": (["model.num_classes=4"], ["model.num_classes", "less than or equal to 3", "4"]),
    "output grid out of reach": (
        ["model.output_size=[50,50]"], ["model.output_size", "[50, 50]", "[56, 56]"],
    ),
    "unknown loss weights": (["loss.class_weights=sqrt"], ["loss.class_weights", "log", "inverse"]),
    "too many loss weights": (["loss.class_weights=[1,2,3,4]"], ["loss.class_weights", "4", "3"]),
    "device that is not there": (["trainer.accelerator=gpu"], ["gpu"]),
    "no such category": (["data.category_id=77"], ["77", "category_id"]),
    "no loss": (["loss.terms.ce.weight=0", "loss.terms.dice.weight=0"], ["loss.terms"]),
    "no detector": (["extractor.onnx_path=/nowhere/x.onnx"], ["/nowhere/x.onnx", "extractor.onnx_path"]),
    "strides that do not double": (
        ["model=fcn8s", "extractor.layers=[/model.6/Concat_output_0,/model.3/Concat_output_0]"],
        ["model=fcn8s needs three feature layers whose strides double", "(8, 4)", "extractor.layers"],
    ),
    "no tensor": (
        ["extractor.layers=[/model.6/Concat_output]"], ["/model.6/Concat_output_0", "[1, 32, 8, 8]"],
    ),
    "wrong input size": (["extractor.preprocess.image_size=[96,64]"], ["image_size", "96"]),
    "no annotations": (["data.val_annotations=/nowhere/x.json"], ["/nowhere/x.json", "annotations"]),
    "no image folder": (["data.train_images=/nowhere"], ["/nowhere", "data.train_images"]),
    "nothing large enough": (["data.min_roi_size=4000"], ["min_roi_size", "4000"]),
    "no checkpoint": (["ckpt_path=/nowhere/x.pth"], ["/nowhere/x.pth", "ckpt_path"]),
    "a cache in a file": (
        ["data/cache=disk", "data.cache.folder=/dev/null"], ["data.cache.folder", "/dev/null"],
    ),
    "a pool without a cache": (["data/pool=augmented"], ["data/pool", "data/cache"]),
    "a pool of plain images": (
        ["data/cache=memory", "data/pool=augmented", "data/augment=null"], ["data/pool", "data/augment"],
    ),
    "unknown metric": (["optimized_metric=val/iou", "trainer.max_epochs=1"], ["val/iou", "val/miou"]),
    "clicks for a model that reads none": (["clicks=random"], ["clicks=null", "point prompts"]),
    "a frame for a model that has none": (["model.frame=image"], ["model.frame"]),
    "misspelt shared option": (["model.flim=1"], ["model.flim", "model.film"]),
    "all terms late": (
        ["loss.terms.ce.from_epoch=2", "loss.terms.dice.from_epoch=3"],
        ["loss.terms", "first epoch", "from_epoch=1"],
    ),
    "no emphasis at all": (
        ["loss.emphasis.inside=0", "loss.emphasis.outside=0"], ["loss.emphasis", "all are 0"],
    ),
    "missing value": (["data.train_images=???"], ["data.train_images"]),
    "unset environment variable": (["data.train_images=${oc.env:NOT_SET}"], ["NOT_SET"]),
}  # fmt: skip
# those that `python -m roiseg.doctor` finds, too
FOUND_BY_DOCTOR = (
    "wrong type", "too many loss weights", "no detector", "no tensor", "wrong input size", "no such category",
    "device that is not there", "nothing large enough", "clicks for a model that reads none",
    "unset environment variable",
)  # fmt: skip


def given(name, tiny_overrides, monkeypatch):
    """The command line of a mistake."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    replaced = {argument.split("=")[0] for argument in MISTAKES[name][0]}
    if "model=fcn8s" in MISTAKES[name][0]:
        replaced |= {"model.mid_channels", "model.min_channels", "model.depth"}
    return [*(o for o in tiny_overrides if o.split("=")[0] not in replaced), *MISTAKES[name][0]]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(refused, tiny_overrides, tmp_path, monkeypatch, name):
    arguments = [*given(name, tiny_overrides, monkeypatch), "~callbacks.onnx_export"]
    refused(roiseg.train, arguments, *MISTAKES[name][1])
    if name != "unknown metric":
        left = [p for p in tmp_path.rglob("*") if p.is_file() and "coco" not in str(p)]
        assert not [p for p in left if p.parent != tmp_path / "data/index"]  # good for the next try


@pytest.mark.parametrize("name", FOUND_BY_DOCTOR)
def test_the_doctor_finds_it_before(run_main, tiny_overrides, tmp_path, monkeypatch, name):
    code, _ = run_main(roiseg.doctor, *given(name, tiny_overrides, monkeypatch), "output=doctor.json")
    findings = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    errors = " ".join(f"{f['text']} {f['todo']}" for f in findings if f["state"] == "error")
    assert code == 2
    assert all(word in errors for word in MISTAKES[name][1]), errors


@pytest.mark.slow
def test_a_real_process_ends_with_code_2_and_one_line(tmp_path):
    mistake = ["extractor.onnx_path=missing.onnx", "extractor.source=null"]
    done = run_command(["roiseg.train", *mistake], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("roiseg: error: ")
    assert "missing.onnx" in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
