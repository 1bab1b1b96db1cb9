"""`python -m roiseg.export check=FILE` on files made for the purpose."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers import user_error
from onnx import TensorProto, helper, numpy_helper
from tiny_run import one_thread, tiny_decoder
from wholebody import red_picture, wholebody_config, wholebody_extractor

from roiseg import export
from roiseg.inference.checkpoint import checkpoint_metadata, load_model
from roiseg.inference.decision import Threshold
from roiseg.inference.onnx_file import OnnxFile
from roiseg.onnx_export import certificate, runtimes
from roiseg.onnx_export.export import ExportOptions, export_graph, export_model
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images in which the detector finds one box and three."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, cells in enumerate([[(2, 3)], [(0, 0), (4, 4), (4, 5)]]):
        cv2.imwrite(str(folder / f"{number}.png"), red_picture(*cells)[0].numpy()[..., ::-1])
    return folder


@pytest.mark.parametrize("form", ["alone", "merged", "boxes"])
def test_every_installed_runtime_gives_the_masks_of_pytorch(
    form, files, checkpoint, pictures, run_check, tmp_path
):
    if modules := os.environ.get("NODE_MODULES"):
        (tmp_path / "node_modules").symlink_to(modules)
    code, error, report = run_check(f"check={files[form]}", f"ckpt={checkpoint}", f"source={pictures}")
    assert (code, error) == (0, "")
    rows = {(row.runtime, row.precision): row for row in report.runtimes}
    assert len(rows) == 6
    for (runtime, precision), row in rows.items():
        assert not row.failure.startswith("failed"), row
        if row.failure:
            assert "install" in row.failure and runtime != "ONNX Runtime"
            continue
        least, most = {"fp32": (0.999, 1e-4), "fp16": (0.98, 2e-2), "int8": (0.9, 0.2)}[precision]
        assert row.worst_iou >= least and row.difference <= most, row
        assert row.milliseconds > 0 and row.megabytes > 0
    if modules and shutil.which("node"):
        assert not rows["onnxruntime-node", "fp32"].failure


def test_a_runtime_with_other_masks_fails_the_check(files, checkpoint, pictures, refused_check, monkeypatch):
    def black(path, feeds, output):
        masks, times = runtimes.onnx_runtime(path, feeds, output)
        return [0 * mask for mask in masks], times

    monkeypatch.setattr(certificate, "open_vino", black)
    monkeypatch.setattr(certificate, "_ious", lambda found, _: [float(found.any())])
    words = "alone.onnx gives other masks in OpenVINO: do not use it there"
    refused_check(words, check=files["alone"], ckpt=checkpoint, source=pictures)


def test_a_failing_runtime_says_why(files, tmp_path, monkeypatch):
    wrong = onnx.load(files["alone"])
    wrong.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(wrong, tmp_path / "wrong.onnx")
    for run in (runtimes.onnx_runtime, runtimes.onnx_runtime_node):
        if run is runtimes.onnx_runtime_node:
            if not os.environ.get("NODE_MODULES") or not shutil.which("node"):
                pytest.skip("node or its packages are missing (NODE_MODULES)")
            monkeypatch.chdir(tmp_path)
            Path("node_modules").symlink_to(os.environ["NODE_MODULES"])
        with pytest.raises(Exception, match="NoSuchOperator"):
            run(tmp_path / "wrong.onnx", [], "masks")


def test_a_program_that_ends_without_a_result_is_no_endless_wait(files):
    with pytest.raises(RuntimeError, match="no result"):
        runtimes._in_javascript(lambda *_: [sys.executable, "-c", ""], files["alone"], [], "masks")


def test_what_is_not_installed_names_its_command(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    commands = {
        runtimes.open_vino: r"pip install 'roiseg\[openvino\]'",
        runtimes.onnx_runtime_node: "npm install onnxruntime-node",
        runtimes.onnx_runtime_web: "npm install onnxruntime-web",
    }
    for run, command in commands.items():
        with pytest.raises(runtimes.NotInstalledError, match=command):
            run(files["alone"], [], "masks")


def test_only_the_decoder_is_quantized(checkpoint, extractor):
    model = load_model(checkpoint)
    feed = {
        name: np.ones((1, *shape), np.float32) for name, shape in zip(model.layers, model.shapes, strict=True)
    }
    feed["rois"] = np.array([[0.1, 0.1, 0.9, 0.9]], np.float32)
    with one_thread():
        graph = export_graph(
            model,
            ExportOptions(merged=True),
            extractor,
            lambda decoder: certificate.quantized(decoder, [feed]),
        ).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = {node.name: makers.get(node.input[0]) for node in graph.node if node.op_type == "Conv"}
    assert len(convolutions) > 2
    for name, maker in convolutions.items():
        assert (maker == "DequantizeLinear") == name.startswith("decoder/"), name


def test_the_first_and_the_last_convolutions_stay_in_float():
    names = [f"conv{number}" for number in range(6)]
    tensors = ["x", *names[:-1], "y"]
    nodes = [
        helper.make_node("Conv", [before, f"{name}.weight"], [after], name=name)
        for name, before, after in zip(names, tensors, tensors[1:], strict=False)
    ]
    weight = np.ones((2, 2, 1, 1), np.float32)
    weights = [numpy_helper.from_array(weight, f"{name}.weight") for name in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = certificate.quantized(model, [{"x": np.ones((1, 2, 4, 4), np.float32)}]).graph
    makers = {name: node.op_type for node in found.node for name in node.output}
    convolutions = {node.name: makers.get(node.input[1]) for node in found.node if node.op_type == "Conv"}
    assert [name for name in names if convolutions[name] == "DequantizeLinear"] == ["conv1", "conv2"]


@pytest.mark.parametrize(
    ("form", "given", "told"),
    [
        ("alone", {}, "source needs ckpt=..."),
        ("labels", {"ckpt": True}, "labels.onnx gives neither masks nor"),
        ("alone", {"ckpt": True, "empty": True}, "the detector finds nothing in these images"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    form, given, told, files, checkpoint, pictures, refused_check, tmp_path, monkeypatch
):
    if form == "labels":
        monkeypatch.setattr(certificate, "ROI_MASKS", "nothing")
    if given.get("empty"):
        pictures = tmp_path / "black.png"
        cv2.imwrite(str(pictures), np.zeros((64, 96, 3), np.uint8))
    ckpt = {"ckpt": checkpoint} if given.get("ckpt") else {}
    refused_check(told, check=files[form], source=pictures, **ckpt)


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


def test_a_file_is_compared_with_its_own_decision(checkpoint, extractor, run_check, tmp_path):
    model, path = load_model(checkpoint), tmp_path / "own.onnx"
    own = Threshold(threshold=0.3)
    with one_thread():
        export_model(replace(model, decision=own), path, ExportOptions(), extractor)
    code, error, report = run_check(f"check={path}", f"ckpt={checkpoint}")
    assert (code, error, report.parity.passed) == (0, "", True)
    assert (report.file.decision, report.other_decision) == (own, model.decision)
    printed = [*export._measurements(report).columns[1].cells]
    assert str(own) in printed and str(model.decision) in printed


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
