"""`python -m roiseg.export check=FILE` on files made for the purpose."""

import json

import onnx
import pytest
import torch
from helpers import user_error
from onnx import numpy_helper
from tiny_run import one_thread, tiny_decoder
from wholebody import wholebody_config, wholebody_extractor

from roiseg import export
from roiseg.inference.checkpoint import checkpoint_metadata, load_model
from roiseg.inference.onnx_file import OnnxFile
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.graph import seal

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FORMS = {
    "alone": ExportOptions(),
    "merged": ExportOptions(merged=True),
    "boxes": ExportOptions(merged=True, boxes=True),
    "labels": ExportOptions(merged=True, boxes=True, outputs=["labels", "roi_masks"], dilate=1),
}


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return wholebody_extractor(tmp_path_factory.mktemp("wholebody"))


@pytest.fixture(scope="module")
def checkpoint(extractor, coco_set, tmp_path_factory):
    """A checkpoint of an untrained decoder, whose validation images are there."""
    config = wholebody_config(extractor)
    config["data"] |= {
        "val_annotations": str(coco_set.json), "val_images": str(coco_set.images), "category_id": 1,
        "min_roi_size": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    weights = {f"decoder.{name}": value for name, value in tiny_decoder(extractor).state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "checkpoint_epoch_0001_64x96_5000.pth"
    torch.save({"roiseg": checkpoint_metadata(config, extractor), "state_dict": weights, "epoch": 0}, path)
    return path


@pytest.fixture(scope="module")
def files(checkpoint, extractor, tmp_path_factory):
    """One exported file of each form."""
    folder = tmp_path_factory.mktemp("exported")
    model = load_model(checkpoint)
    with one_thread():
        for name, options in FORMS.items():
            export_model(model, folder / f"{name}.onnx", options, extractor)
    return {name: folder / f"{name}.onnx" for name in FORMS}


@pytest.fixture
def run_check(run_main, monkeypatch):
    """Run the command in this process: (exit code, stderr, the report, if it came so far)."""
    reports = []
    monkeypatch.setattr(export, "show_check", reports.append)

    def run(*arguments):
        reports.clear()
        with one_thread():
            code, error = run_main(export, "runs=1", *arguments)
        return code, error, reports[0] if reports else None

    return run


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_export_agrees_with_its_checkpoint(form, files, checkpoint, run_check):
    code, error, report = run_check(f"check={files[form]}", f"ckpt={checkpoint}")
    assert (code, error) == (0, "")
    assert report.parity.passed
    assert report.parity.real is not None
    assert (report.parity.detections is not None) == report.file.finds_boxes == (form in ("boxes", "labels"))
    if report.file.finds_boxes:
        assert len(report.trials) == 1
    else:
        assert [trial.rois for trial in report.trials] == [0, 1, 5, 20]
        assert all(trial.milliseconds > 0 for trial in report.trials[1:])


def test_the_command_prints_tensors_metadata_and_figures(files, checkpoint, run_main, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    with one_thread():
        done = run_main(export, f"check={files['merged']}", f"ckpt={checkpoint}", "rois=[2]", "runs=3")
    assert done == (0, "")
    for text in (
        "[1, 3, 64, 96]", "rois", "masks", "checkpoint_epoch_0001_64x96_5000.pth", "extractor_sha256", "2 ROIs",
        "random input", "real input", "The file agrees with its checkpoint.",
    ):  # fmt: skip
        assert text in run_main.printed
    assert not list(tmp_path.iterdir())


def changed(path, target, change):
    """A copy of a file whose largest weight is changed."""
    model = onnx.load(str(path))
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, str(target))
    return target


@pytest.fixture
def refused_check(refused):
    """Check a file that must be refused in one line with these words; returns the line."""

    def run(*words, **options):
        with one_thread():
            return refused(export, ["runs=1", *(f"{key}={value}" for key, value in options.items())], *words)

    return run


def test_another_weight_is_found_out(files, checkpoint, run_check, refused_check, tmp_path):
    path = changed(files["alone"], tmp_path / "other.onnx", lambda weight: weight + 0.1)
    refused_check("other.onnx differs from", checkpoint.name, check=path, ckpt=checkpoint)
    assert run_check(f"check={path}")[0] == 0  # sound in itself


def test_masks_that_are_no_numbers_are_found_out_without_a_checkpoint(files, refused_check, tmp_path):
    path = changed(files["alone"], tmp_path / "nan.onnx", lambda weight: weight * float("nan"))
    refused_check("nan.onnx gives masks from nan to nan", check=path)


def test_another_models_checkpoint_is_refused(files, checkpoint, refused_check, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["roiseg"]["extractor_sha256"] = "0" * 64
    torch.save(content, tmp_path / "other.pth")
    words = "alone.onnx was exported from checkpoint_epoch_0001", "other.pth"
    refused_check(*words, check=files["alone"], ckpt=tmp_path / "other.pth")


def test_a_merged_file_whose_detector_is_gone_says_so(files, checkpoint, refused_check, tmp_path):
    refused_check("gone.onnx", check=files["merged"], ckpt=checkpoint, onnx_path=tmp_path / "gone.onnx")


def with_metadata(path, target, sealed=False, **entries):
    """A copy of a file with other entries in its metadata; None removes one."""
    model = onnx.load(str(path))
    stored = {entry.key: entry.value for entry in model.metadata_props}
    stored = {key: value for key, value in {**stored, **entries}.items() if value is not None}
    if sealed:
        stored["seal"] = seal(stored, [tensor.name for tensor in (*model.graph.input, *model.graph.output)])
    onnx.helper.set_model_props(model, stored)
    onnx.save(model, str(target))
    return target


@pytest.mark.parametrize("form", FORMS)
def test_no_changed_entry_of_the_metadata_is_used(form, files, tmp_path):
    target = tmp_path / "changed.onnx"
    stored = OnnxFile(files[form]).metadata
    for key, value in stored.items():
        for changed in (value.replace("6", "7") + " ", None):
            with_metadata(files[form], target, **{key: changed})
            assert "export it" in user_error(OnnxFile, target) or key == "producer"
    assert OnnxFile(with_metadata(files[form], target, added_by="another program"))


SIZES = {"image_size": "[96, 64]", "preprocess": json.dumps({"image_size": [96, 64]})}


@pytest.mark.parametrize(
    ("form", "entries", "told"),
    [
        *((form, SIZES, "says image_size [96, 64], ") for form in FORMS),
        ("alone", {"image_size": "[96, 64]"}, "says image_size [96, 64] and preprocess [64, 96]"),
        ("alone", {"layers": '["another"]'}, "names layers ['another'], the graph reads"),
        ("alone", {"merged": "true"}, "`image_input` is None"),
        ("alone", {"preprocess": '{"image_size": [64, 96], "divisor": 0}'}, "divisor must not be 0"),
        ("merged", {"merged": "false"}, "the graph reads"),
        ("merged", {"image_input": '"photograph"'}, "names the input photograph, the graph reads"),
    ],
)
def test_metadata_that_contradicts_its_graph_is_refused(form, entries, told, files, tmp_path):
    path = with_metadata(files[form], tmp_path / "contradicting.onnx", sealed=True, **entries)
    assert told in user_error(OnnxFile, path)


@pytest.mark.parametrize(
    "value", ["", "[", "null", "5", '"x"', "[1]", "[1e999, -1]", "{}", "[" * 100_000, None]
)
def test_odd_metadata_is_one_line(value, files, tmp_path):
    for key in ("image_size", "layers", "preprocess", "merged", "postprocess", "image_input"):
        path = with_metadata(files["merged"], tmp_path / "odd.onnx", sealed=True, **{key: value})
        if key == "postprocess" and value in ("null", "{}"):  # no adapter, and none of its own
            continue
        message = user_error(OnnxFile, path)
        assert str(path) in message
        assert len(message) < 500
