"""Every block of the pages is executed, top to bottom, and its results are checked."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from docs.pages import Reader, blocks
from helpers import ROOT, segmentation_mask

from roiseg.common.package_files import package_file
from roiseg.data.images import read_image
from roiseg.decoders.layers.extra_inputs import Film
from roiseg.inference.checkpoint import load_model
from roiseg.inference.decision import Votes
from roiseg.inference.predictor import Predictor
from roiseg.onnx_export.export import ExportOptions, export_model

pytestmark = pytest.mark.slow


@pytest.fixture
def reader(your_files, run_main, monkeypatch):
    if modules := os.environ.get("NODE_MODULES"):
        (your_files / "node_modules").symlink_to(modules)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Reader(your_files, run_main, monkeypatch)


def summaries(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("**/summary.json"))]


def test_the_first_hour_ends_with_masks_of_cars(reader):
    reader.read("first-hour.md")
    folder = reader.folder
    assert cv2.imread(str(folder / "preview.png")) is not None
    assert summaries(folder / "outputs/cars")[0]["data"]["train_rois"] == 10  # the cars, not the person
    records = json.loads((folder / "outputs/cars_masks/coco_results.json").read_text())
    assert len(records) == 11  # every annotated car that is not a crowd
    assert {record["category_id"] for record in records} == {3}
    evaluated = json.loads((folder / "outputs/cars_evaluated/results.json").read_text())
    assert {record["category_id"] for record in evaluated} == {3}


def test_annotations_of_other_tools_keep_their_masks(run_main, monkeypatch, tmp_path):
    """LabelMe: parts in a group, a painted mask with a hole, another label. YOLO-seg: two parts in one outline."""
    labelme, images, labels = (tmp_path / name for name in ("my_labelme", "my_yolo/images", "my_yolo/labels"))
    for folder in (labelme, images, labels):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for path in (labelme / "a.jpg", images / "b.jpg", images / "empty.jpg"):
        cv2.imwrite(str(path), rng.integers(0, 256, (80, 100, 3), np.uint8))
    painted = np.full((30, 20), 255, np.uint8)
    painted[10:20, 5:15] = 0
    square = [[10, 10], [30, 10], [30, 70], [10, 70]]
    other = [[40, 10], [60, 10], [60, 30], [40, 30]]
    shapes = [
        {"label": "person", "shape_type": "polygon", "points": square, "group_id": 1},
        {"label": "person", "shape_type": "polygon", "points": other, "group_id": 1},
        {"label": "person", "shape_type": "polygon", "points": other, "group_id": None},
        {"label": "person", "shape_type": "mask", "points": [[70, 40], [89, 69]], "group_id": None,
         "mask": base64.b64encode(cv2.imencode(".png", painted)[1]).decode()},
        {"label": "dog", "shape_type": "polygon", "points": other, "group_id": None},
    ]  # fmt: skip
    content = {"imagePath": "..\\photos\\a.jpg", "imageHeight": 80, "imageWidth": 100, "shapes": shapes}
    (labelme / "a.json").write_text(json.dumps(content))
    outline = [*square, square[0], *other, other[0], square[0]]
    joined = " ".join(f"{x / 100} {y / 80}" for x, y in outline)
    (labels / "b.txt").write_text(
        f"0 {joined}\n1 0.1 0.1 0.2 0.1 0.2 0.2\n0 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\n"
    )

    Reader(tmp_path, run_main, monkeypatch).read("annotations.md")

    two_parts = np.zeros((80, 100), bool)
    two_parts[10:70, 10:30] = two_parts[10:30, 40:60] = True
    with_hole = np.zeros((80, 100), bool)
    with_hole[40:70, 70:90] = painted > 0
    masks = [
        segmentation_mask(record["segmentation"], 80, 100)
        for record in annotations_of(tmp_path / "train.json")
    ]
    assert len(masks) == 3
    assert (masks[0] == two_parts).all() and (masks[2] == with_hole).all()
    masks = [
        segmentation_mask(record["segmentation"], 80, 100) for record in annotations_of(tmp_path / "val.json")
    ]
    assert len(masks) == 2
    assert (masks[0] != two_parts).mean() < 0.01
    (summary,) = summaries(tmp_path)
    assert (summary["data"]["train_images"], summary["data"]["val_rois"]) == (1, 2)


def annotations_of(path):
    return json.loads(path.read_text())["annotations"]


def test_choosing_a_tensor(reader):
    reader.read("choosing-a-tensor.md")
    (summary,) = summaries(reader.folder)
    assert summary["epochs"] == 1


def test_an_ablation_ends_with_a_report(reader):
    reader.read("ablations.md")
    report = json.loads((reader.folder / "outputs/sweeps/classes/report/report.json").read_text())
    assert "model.num_classes=2" in json.dumps(report)


def test_every_extension_is_used(your_files, run_main, tiny_overrides, monkeypatch):
    training = [o for o in tiny_overrides if not o.startswith(("model.", "trainer.max_epochs"))]
    training += ["trainer.max_epochs=1", "~callbacks.onnx_export"]
    reader = Reader(your_files, run_main, monkeypatch, training)
    reader.read("extending.md")
    runs = summaries(your_files)
    (linear,) = [run for run in runs if run["choices"]["model"] == "linear"]
    assert linear["onnx_check"]["passed"]
    configurations = "".join(path.read_text() for path in your_files.glob("**/config.yaml"))
    for target in ("losses.jaccard.Jaccard", "data.polygon_csv.PolygonCsv", "data.vignette.Vignette"):
        assert f"_target_: roiseg.{target}" in configurations
    (metric,) = summaries(your_files / "outputs/metric")
    assert 0 <= metric["final"]["val/small_iou"] <= 1
    archives = list(your_files.glob("outputs/archives/npz/*.npz"))
    assert np.load(archives[0])["masks"].dtype == bool


def test_the_exported_file_gives_the_same_masks_without_roiseg(reader):
    reader.read("deploy.md")
    folder = reader.folder
    (checkpoint,) = folder.glob("checkpoints/cars/*.pth")
    detector = str(folder / "my_detector.onnx")
    predictor = Predictor.from_checkpoint(checkpoint, onnx_path=detector, device="cpu")
    predictor.set_image(cv2.imread(str(folder / "street.jpg"))[..., ::-1].copy())
    prediction = predictor.predict([[10, 12, 48, 70], [36, 12, 80, 68]])
    written = ["mask"] if reader.left_out else ["mask", "js_mask"]
    for number, (x1, y1, x2, y2) in enumerate(prediction.windows):
        expected = np.zeros(prediction.size, np.float32)
        expected[y1:y2, x1:x2] = prediction.probabilities[number]
        clear = np.abs(expected - 0.5) > 2e-3  # little is learned
        for name in written:
            image = cv2.imread(str(folder / f"{name}_{number}.png"), cv2.IMREAD_GRAYSCALE)
            assert image.shape == prediction.size
            assert ((image == 255) == (expected >= 0.5))[clear].all(), name
    if reader.left_out:
        pytest.skip(f"node or its packages are missing (NODE_MODULES); not run: {reader.left_out}")


def other_options(checkpoint, path):
    """Write the checkpoint with a stretched input, masks that do not overlap, and features that know the scale."""
    content = torch.load(checkpoint, weights_only=True)
    config = content["roiseg"]["config"]
    config["extractor"]["preprocess"]["keep_aspect"] = False
    config["extractor"]["onnx_path"] = str(package_file("ext_extractor/yolox_nano.onnx"))
    config["model"]["film"] = 1.0
    content["roiseg"]["decision"] = Votes(exclusive=True, weight=0.3, bias=0.2).node()
    torch.manual_seed(0)
    film = Film([shape[0] for shape in content["roiseg"]["shapes"]], 1.0)
    content["state_dict"] |= {f"decoder.film.{name}": 3 * value for name, value in film.state_dict().items()}
    torch.save(content, path)
    return path


@pytest.mark.realdata
@pytest.mark.parametrize("options", ["as trained", "others"])
def test_the_programs_give_the_masks_of_predict_on_photographs(options, realdata, tmp_path):
    checkpoint = package_file("ext_extractor/yolox_nano_person.pth")
    if options == "others":
        checkpoint = other_options(checkpoint, tmp_path / "others.pth")
    model, programs = load_model(checkpoint), dict(blocks("deploy.md"))
    options = ExportOptions(merged=True, outputs=["roi_masks", "mask_scores"])
    export_model(model, tmp_path / "masks.onnx", options, model.extractor())
    commands = {"mask": [sys.executable, "masks.py"]}
    if (modules := os.environ.get("NODE_MODULES")) and shutil.which("node"):
        (tmp_path / "node_modules").symlink_to(modules)
        commands["js_mask"] = ["node", "masks.mjs"]
    predictor, compared = Predictor.from_checkpoint(checkpoint, device="cpu"), 0
    for photograph in sorted((realdata / "coco128_person/images/val2017").glob("*.jpg"))[:6]:
        shutil.copy(photograph, tmp_path / "street.jpg")
        predictor.set_image(read_image(photograph))
        if not (boxes := predictor.detect().boxes.round().tolist()):
            continue
        for language, name in (("python", "masks.py"), ("js", "masks.mjs")):
            (tmp_path / name).write_text(
                programs[language].replace("[[10, 12, 48, 70], [36, 12, 80, 68]]", str(boxes))
            )
        for name, command in commands.items():
            subprocess.run(command, cwd=tmp_path, check=True)
            for number, mask in enumerate(predictor.predict(boxes).masks()):
                found = cv2.imread(str(tmp_path / f"{name}_{number}.png"), cv2.IMREAD_GRAYSCALE) == 255
                assert (found & mask).sum() >= 0.999 * (found | mask).sum(), (name, photograph.name, number)
                compared += mask.any()
    assert compared >= 5
    facts = json.loads((tmp_path / "masks.onnx.json").read_text())
    if options == "others":
        names = {one["name"] for one in facts["inputs"]}
        assert "pixel_size" in names and facts["decision"]["exclusive"]
    facts["detector"]["in_this_file"] = False
    (tmp_path / "masks.onnx.json").write_text(json.dumps(facts))
    for command in commands.values():
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and "export with merged=true" in done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
@pytest.mark.parametrize("size", [(40, 60), (131, 77), (97, 300), (400, 500)])
def test_the_javascript_resizes_as_training_does(tmp_path, size):
    """On noise, a resizer that averages or is off by part of a pixel gives something else."""
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    (script,) = (text for language, text in blocks("deploy.md") if language == "js")
    function = re.search(r"^const taps.*?^function resize.*?^}", script, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "in.bin").write_bytes(image.tobytes())
    (tmp_path / "resize.mjs").write_text(
        f'import fs from "node:fs";\n{function}\n'
        f'const to = resize(fs.readFileSync("in.bin"), [97, 131], {list(size)});\n'
        'fs.writeFileSync("out.bin", Uint8Array.from(to));\n'
    )
    subprocess.run(["node", "resize.mjs"], cwd=tmp_path, check=True)
    resized = np.fromfile(tmp_path / "out.bin", np.uint8).reshape(*size, 3)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    difference = np.abs(resized.astype(int) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.01


def test_every_page_is_in_the_index_and_links_lead_somewhere():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    index = (ROOT / "docs" / "README.md").read_text()
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    for page in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]:
        for link in re.findall(r"\]\(([\w./-]+\.(?:md|png|jpg))\)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page}: {link}"
        for name in re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`", page.read_text()):
            assert list((ROOT / "tests").rglob(Path(name).name)), f"{page}: {name}"
