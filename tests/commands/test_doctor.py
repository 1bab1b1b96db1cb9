"""`python -m roiseg.doctor`, in this process, on the tiny set: whole, and broken in every place."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from helpers import rectangle
from run_folders import write_run
from wholebody import LAYER, SIZE, wholebody_file

import roiseg.doctor
import roiseg.predict
from roiseg.diagnosis.decoder_costs import figures_of_runs
from roiseg.inference.predictor import Predictor
from roiseg.inference.sources.image_files import open_source


@pytest.fixture
def doctor(run_main, tiny_overrides, tmp_path):
    """Run the doctor: returns (exit code, findings as in the JSON file, what it printed)."""

    def run(*overrides):
        out = tmp_path / "doctor.json"
        code, stderr = run_main(roiseg.doctor, *tiny_overrides, *overrides, f"output={out}")
        assert out.is_file(), stderr
        content = json.loads(out.read_text())
        assert content["can_start"] == (code == 0)
        return code, content["findings"], run_main.printed

    return run


def of_state(findings, *states):
    return [finding for finding in findings if finding["state"] in states]


def test_a_whole_configuration_could_start_and_leaves_nothing(doctor, tmp_path):
    code, findings, printed = doctor("data/cache=disk")
    assert code == 0, of_state(findings, "error")
    assert not of_state(findings, "error")
    assert "training could start" in printed
    said = "\n".join(f"{finding['about']}: {finding['text']}" for finding in findings)
    assert "data, train: 6 images, 5 with ROIs; 10 ROIs" in said  # of TINY_INSTANCES: no dog, crowd, small
    assert "1 crowd regions" in said
    assert "detector's input: images: float32 [1, 3, 64, 64]" in said
    assert "one image: " in said and "before any training" in said
    assert "feature cache: 0.00 MB per image" in said  # [32, 8, 8] in float16: 4096 bytes
    left = {path.name for path in tmp_path.glob("[!.]*")}
    assert left <= {"doctor.json", "data"}
    assert not (tmp_path / "data" / "feature_cache").exists()


def test_the_same_images_in_training_and_validation_are_a_warning(doctor):
    _, findings, _ = doctor()
    (warning,) = [f for f in of_state(findings, "warning") if f["about"] == "data"]
    assert "5 images" in warning["text"] or "6 images" in warning["text"]
    assert "val_annotations" in warning["todo"]
    _, findings, _ = doctor("data/folds=five", "data.folds.number=2")
    assert not [f for f in of_state(findings, "warning") if f["about"] == "data"]


def test_all_broken_files_are_named_at_once(doctor, tmp_path):
    detector = tmp_path / "broken.onnx"
    detector.write_bytes(b"no model at all")
    broken = {
        "extractor.onnx_path": detector, "data.train_annotations": "/nowhere/t.json", "data.train_images": "/nowhere/t",
        "data.val_annotations": "/nowhere/v.json", "data.val_images": "/nowhere/v",
    }  # fmt: skip
    code, findings, printed = doctor(*(f"{key}={path}" for key, path in broken.items()))
    errors = [f"{finding['text']} {finding['todo']}" for finding in of_state(findings, "error")]
    assert code == 2 and "cannot start" in printed
    assert len(errors) == 5
    for error in errors:  # on a line of its own, so that it can be copied
        assert error.strip() in printed
    for key, path in broken.items():
        assert any(str(path) in error and (key in error or path is detector) for error in errors), key


def test_a_folder_that_cannot_be_written_is_named(doctor, monkeypatch):
    if os.geteuid() == 0:
        monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/proc")
    code, findings, _ = doctor("paths.output_dir=/proc/no")
    (error,) = of_state(findings, "error")
    assert code == 2 and "/proc" in error["text"] and "paths.output_dir" in error["todo"]


def test_missing_images_broken_json_and_a_missing_logger_are_named(doctor, coco_set, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    (shutil.copytree(coco_set.images, tmp_path / "images") / "c.jpg").unlink()
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    wrong = {f"data.train_images={tmp_path}/images": "c.jpg", f"data.val_annotations={broken}": str(broken)}
    for override, named in {**wrong, "logger=wandb": "pip install 'roiseg[wandb]'"}.items():
        code, findings, _ = doctor(override)
        assert code == 2 and named in of_state(findings, "error")[0]["text"]


def test_data_and_detector_that_training_makes_are_no_error(run_main, tmp_path):
    """In an empty folder the defaults are not there yet, and training makes them."""
    code, stderr = run_main(roiseg.doctor, "output=doctor.json")
    assert code == 0, stderr
    findings = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    notes = [f["text"] for f in of_state(findings, "note")]
    assert sum(text.endswith("is not there yet: training makes it") for text in notes) == 4
    shipped = "tiny_person_256.onnx is not there yet: it ships with roiseg and is copied there on first use"
    assert sum(text.endswith(shipped) for text in notes) == 1
    assert "model" in {finding["about"] for finding in findings}  # the shipped detector was opened
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"doctor.json"}


def test_tensors_by_pattern(doctor):
    _, _, printed = doctor("tensors=Flatten")
    assert "Flatten" in printed and "chosen" in printed and "Concat_output_0" in printed
    assert "/model.3/" not in printed
    code, findings, _ = doctor("tensors=Transformer")
    assert code == 0 and any("Transformer" in f["text"] for f in of_state(findings, "warning"))


def test_tensors_are_listed_before_one_is_chosen(doctor):
    code, findings, printed = doctor("extractor.layers=???", "tensors=Concat")
    assert code == 2
    assert [f["text"] for f in of_state(findings, "error")] == [
        "configuration `extractor.layers` must be given: add extractor.layers=..."
    ]
    assert "/model.6/Concat_output_0" in printed


def test_a_cache_that_is_too_small_is_a_warning(doctor):
    _, findings, _ = doctor("data/augment=null", "data/cache=disk", "data.cache.budget_gb=0.000001")
    (warning,) = [f for f in of_state(findings, "warning") if f["about"] == "feature cache"]
    assert "budget_gb" in warning["todo"]


@pytest.fixture
def red_cells(tmp_path):
    """Overrides: a detector that finds red cells, and images with such, annotated as category 3."""
    content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "car"}]}
    for image in range(4):
        pixels, size = np.zeros((*SIZE, 3), np.uint8), {"height": SIZE[0], "width": SIZE[1]}
        content["images"].append({"id": image, "file_name": f"{image}.png", **size})
        for x, y in ((8, 8 * image), (64, 32)):
            pixels[y : y + 8, x : x + 8, 2] = 255  # blue, green, red
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image, "category_id": 3, "iscrowd": 0,
                "area": 64, "bbox": [x, y, 8, 8], "segmentation": [rectangle(x, y, x + 8, y + 8)],
            })  # fmt: skip
        cv2.imwrite(str(tmp_path / f"{image}.png"), pixels)
    (tmp_path / "cars.json").write_text(json.dumps(content))
    files = [
        f"data.{split}_{kind}={tmp_path / name}"
        for split in ("train", "val")
        for kind, name in (("annotations", "cars.json"), ("images", ""))
    ]
    return [
        *files, "data.category_id=3", "data.min_roi_size=4", "postprocess@extractor.postprocess=wholebody",
        f"extractor.onnx_path={wholebody_file(tmp_path / 'cells.onnx')}", f"extractor.layers=[{LAYER}]",
        f"extractor.preprocess.image_size={list(SIZE)}",
    ]  # fmt: skip


def test_annotated_boxes_that_the_detector_does_not_find_are_a_warning(doctor, red_cells):
    """Found: the labels are right, whatever the category. Not found: preprocessing and labels are named."""
    _, findings, _ = doctor(*red_cells)
    (finding,) = [f for f in findings if f["about"] == "detector's boxes"]
    assert finding["state"] == "ok" and "8 of 8 annotated boxes in 4 images" in finding["text"]
    _, findings, _ = doctor(*red_cells, "extractor.preprocess.color=bgr")
    first, second = [f for f in of_state(findings, "warning") if f["about"] == "detector's boxes"]
    assert "0 of 8" in first["text"] and "extractor.preprocess" in first["todo"] and "labels" in first["todo"]
    assert "extractor.postprocess.labels is [0]" in second["text"] and "category is 3" in second["text"]


@pytest.mark.slow
def test_training_and_prediction_warn_of_a_detector_of_other_things(run_train, red_cells, tmp_path, caplog):
    override = ["extractor.preprocess.color=bgr", "trainer.max_epochs=1", "test=false"]
    summary = run_train(tmp_path / "run", *red_cells, *override)
    assert "0 of 8 annotated boxes" in caplog.text and "extractor.postprocess.labels is [0]" in caplog.text
    caplog.clear()
    predictor = Predictor.from_checkpoint(summary["best_checkpoint"])
    options = {"boxes": "detector", "category_id": 3, "class_id": None, "crowd": None, "ckpt": None}
    assert roiseg.predict.find_boxes(options, open_source(str(tmp_path)), predictor) is None
    assert "extractor.postprocess.labels is [0]" in caplog.text


@pytest.fixture
def tiny(tiny_overrides):
    """Overrides that concern the detector."""
    return [o for o in tiny_overrides if o.startswith("extractor.")]


def test_costs_of_decoders_are_written_and_follow_the_overrides(run_main, tiny, tmp_path):
    arguments = [*tiny, "decoders=[roialign]", "output=costs.json"]
    assert run_main(roiseg.doctor, *arguments, "model.mid_channels=16")[0] == 0
    narrow = json.loads((tmp_path / "costs.json").read_text())["roialign"]
    assert run_main(roiseg.doctor, *arguments, "model.mid_channels=32")[0] == 0
    wide = json.loads((tmp_path / "costs.json").read_text())["roialign"]
    assert set(narrow) == {"parameters", "image_macs", "roi_macs", "roi_ms"}
    assert wide["image_macs"] == 2 * narrow["image_macs"] == 2 * 8 * 8 * 32 * 16
    assert wide["parameters"] > narrow["parameters"]


@pytest.mark.slow
def test_figures_of_runs_stand_beside_the_costs(run_main, tiny, tmp_path, capfd):
    figures = {"test/target_iou": 0.6251, "test/instance_iou": 0.5}
    write_run(tmp_path / "sweep/0", [], rows=[], summary={"choices": {"model": "roialign"}, "test": figures})
    assert figures_of_runs(tmp_path / "sweep") == {"roialign": figures}
    assert run_main(roiseg.doctor, *tiny, "decoders=[roialign]", "runs=sweep")[0] == 0


@pytest.mark.slow
def test_a_decoder_that_cannot_be_built_is_left_out_with_its_reason(run_main, tiny, tmp_path):
    assert run_main(roiseg.doctor, *tiny, "decoders=[roialign,fcn8s]", "output=costs.json")[0] == 0
    assert set(json.loads((tmp_path / "costs.json").read_text())) == {"roialign"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decoders=[roialing]"], ["decoders", "roialing", "roialign"]),
        (["decoders=[fcn8s]"], ["fcn8s", "three"]),
        (["decoders=[roialign]", "device=abacus"], ["device=abacus"]),
        (["decoders=[roialign]", "runs=/nowhere"], ["/nowhere", "runs"]),
        (["decoders=[roialign]", "runs=."], ["summary.json"]),
        (["decoders=[roialign]", "extractor.layers=[x]"], ["extractor", "x"]),
        (["decoders=[roialign]", "model.depht=1"], ["model.depht"]),
    ],
)
def test_mistakes_in_comparing_decoders_end_in_one_line(refused, tiny, arguments, words):
    refused(roiseg.doctor, [*tiny, *arguments], *words)


@pytest.mark.realdata
def test_real_data(run_main, realdata, tmp_path, monkeypatch):
    monkeypatch.setenv("ROISEG_REALDATA", str(realdata))
    arguments = ["experiment=coco128_best", "output=doctor.json", "data.num_workers=0"]
    arguments.append(f"extractor.onnx_path={realdata / 'yolox_nano.onnx'}")
    code, stderr = run_main(roiseg.doctor, *arguments, f"paths.root_dir={tmp_path}")
    assert code == 0, stderr
    findings = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    said = "\n".join(f"{finding['about']}: {finding['text']}" for finding in findings)
    for pattern in ("data, train: 46 images.* 161 ROIs", "data, val: 15 .* 35 ROIs"):
        assert re.search(pattern, said)
    # strides 8, 4, 16: 64 x 52 x 52 + 32 x 104 x 104 + 128 x 26 x 26 numbers in float16
    assert "feature cache: 1.21 MB per image" in said
