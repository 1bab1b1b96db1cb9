"""The sidecar and the model card beside an exported file."""

import hashlib
import json
import math
from dataclasses import replace

import onnx
import pytest
from helpers import make_onnx, onnx_session, user_error
from tiny_run import tiny_config, tiny_decoder, tiny_extractor, trained_model

from roiseg.geometry.transform import Letterbox
from roiseg.inference.decision import Votes
from roiseg.onnx_export.export import ExportOptions, export_model
from roiseg.onnx_export.sidecar import facts_of

pytestmark = pytest.mark.filterwarnings("ignore")

DATA = {"category_id": 7, "val_annotations": "/some/where/val.json"}
METRICS = {"train/loss": 0.5, "val/miou": 0.25}


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """A detector that states its licence."""
    path = make_onnx(tmp_path_factory.mktemp("detector") / "tiny.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"license": "AGPL-3.0"})
    onnx.save(model, path)
    return tiny_extractor(path)


@pytest.fixture(scope="module")
def model(extractor):
    config = tiny_config(extractor.onnx_path)
    config["data"] = DATA
    model = trained_model(tiny_decoder(extractor), extractor, config, epoch=3)
    return replace(model, metrics=METRICS, decision=Votes(exclusive=True))


@pytest.fixture(scope="module")
def path(model, extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "masks.onnx"
    export_model(model, path, ExportOptions(outputs=["roi_masks", "labels"]), extractor)
    return path


def test_the_sidecar_says_what_is_in_the_file(path, model):
    facts = json.loads(path.with_name("masks.onnx.json").read_text())
    running = onnx_session(path)
    for key, values in (("inputs", running.get_inputs()), ("outputs", running.get_outputs())):
        assert [(one["name"], one["shape"]) for one in facts[key]] == [
            (one.name, one.shape) for one in values
        ]
    assert [one["type"] for one in facts["outputs"]] == ["float32", "int32"]
    assert facts["file"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["preprocess"].items() >= {"image_size": [64, 64], "color": "bgr", "std": [1, 1, 1]}.items()
    assert facts["classes"] == ["background", "target", "non_target"]
    assert facts["decision"].items() >= {"exclusive": True, "weight": None}.items()
    assert facts["to_masks"].keys() == {"roi_masks", "labels"}
    assert facts["detector"].items() >= {
        "file": "tiny.onnx", "sha256": model.extractor_sha256, "licence": "AGPL-3.0", "in_this_file": False,
        "tensors": [{"name": model.layers[0], "shape": [1, *model.shapes[0]]}],
    }.items()  # fmt: skip
    assert facts["checkpoint"] == {"file": model.path.name, "epoch": 3, "metrics": METRICS}
    assert facts["data"] == {"category_id": 7, "val_annotations": "val.json"}
    assert facts["difference_from_pytorch"]["passed"]
    assert facts["versions"]["opset"] == 18


def test_the_card_says_the_same_to_people_and_neither_names_a_folder(path):
    card = path.with_name("masks.onnx.md").read_text()
    for words in (
        "# masks.onnx", "| output | `labels` | int32 | [64, 64] |", "Licence of the detector: AGPL-3.0. It applies to",
        "which this file does not contain", "epoch 3; data: category_id 7", "| val/miou | 0.2500 |", "`tiny.onnx`",
        "the one with the largest value keeps the pixel",
    ):  # fmt: skip
        assert words in card
    for text in (card, path.with_name("masks.onnx.json").read_text()):
        assert str(path.parent) not in text and "/some/where" not in text


@pytest.mark.parametrize(
    "options", [{}, {"align": "topleft"}, {"keep_aspect": False}, {"align": "center", "pad_value": 0}]
)
def test_the_formulas_are_those_of_training(options, model, path):
    config = json.loads(json.dumps(model.config))
    config["extractor"]["preprocess"] |= {"image_size": [64, 96], **options}
    graph = onnx.load(path)
    check = type("Check", (), {"summary": lambda self: {}})()
    facts = facts_of(replace(model, config=config), graph, {"merged": "true"}, check, None)
    steps = facts["preprocess"]["steps"]
    for h, w in [(640, 480), (33, 1000), (64, 96), (2, 3000)]:
        known = {"h": h, "w": w, "floor": math.floor}
        for step in steps[: next(i for i, step in enumerate(steps) if step.startswith("resize"))]:
            exec(step, known)
        scale = Letterbox(
            (64, 96), **{k: v for k, v in facts["preprocess"].items() if k in ("align", "keep_aspect")}
        )
        expected = scale.fit(h, w)
        given = [known["new_w"] / w, known["new_h"] / h, known["left"], known["top"]]
        assert given == [expected.scale_x, expected.scale_y, expected.shift_x, expected.shift_y]


@pytest.mark.parametrize("suffix", ["json", "md"])
def test_a_file_in_the_way_is_kept_and_nothing_is_exported(suffix, model, tmp_path, monkeypatch):
    monkeypatch.setattr("roiseg.onnx_export.export.export_decoder", None)
    theirs = tmp_path / f"masks.onnx.{suffix}"
    theirs.write_text("mine")
    told = user_error(export_model, model, tmp_path / "masks.onnx", ExportOptions())
    assert told.startswith(f"output {theirs} exists")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_an_export_replaces_its_own_files(path, model, extractor):
    before = path.with_name("masks.onnx.json").read_text()
    export_model(replace(model, epoch=4), path, ExportOptions(outputs=["roi_masks", "labels"]), extractor)
    after = path.with_name("masks.onnx.json").read_text()
    assert json.loads(before)["checkpoint"]["epoch"] == 3 and json.loads(after)["checkpoint"]["epoch"] == 4
