"""Every box of the pages is run, top to bottom; what comes out is looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from docs.pages import Reader, boxes
from helpers import ROOT

from roiseg.inference.predictor import Predictor

RUN = ["first-hour.md", "choosing-a-tensor.md", "ablations.md", "deploy.md"]


@pytest.fixture
def reader(your_files, run_main, monkeypatch):
    if modules := os.environ.get("NODE_MODULES"):
        (your_files / "node_modules").symlink_to(modules)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Reader(your_files, run_main)


def test_the_first_hour_ends_with_masks_of_cars(reader):
    reader.read("first-hour.md")
    folder = reader.folder
    assert cv2.imread(str(folder / "preview.png")) is not None
    (summary,) = folder.glob("outputs/cars/summary.json")
    assert json.loads(summary.read_text())["data"]["train_rois"] == 10  # the cars, not the person
    records = json.loads((folder / "outputs/cars_masks/coco_results.json").read_text())
    assert len(records) == 11  # every annotated car that is no crowd
    assert {record["category_id"] for record in records} == {3}
    evaluated = json.loads((folder / "outputs/cars_evaluated/results.json").read_text())
    assert {record["category_id"] for record in evaluated} == {3}


def test_choosing_a_tensor(reader):
    reader.read("choosing-a-tensor.md")
    (run,) = reader.folder.glob("outputs/train/*/summary.json")
    assert json.loads(run.read_text())["epochs"] == 1


def test_an_ablation_ends_with_a_report(reader):
    reader.read("ablations.md")
    report = json.loads((reader.folder / "outputs/sweeps/classes/report/report.json").read_text())
    assert "model.num_classes=2" in json.dumps(report)


def test_the_exported_file_gives_roiseg_s_masks_without_roiseg(reader):
    reader.read("deploy.md")
    folder = reader.folder
    (checkpoint,) = folder.glob("checkpoints/cars/*.pth")
    predictor = Predictor.from_checkpoint(
        checkpoint, onnx_path=str(folder / "my_detector.onnx"), device="cpu"
    )
    predictor.set_image(cv2.imread(str(folder / "street.jpg"))[..., ::-1].copy())
    prediction = predictor.predict([[10, 12, 48, 70], [36, 12, 80, 68]])
    made = ["mask"] if reader.left_out else ["mask", "js_mask"]
    for number, (x1, y1, x2, y2) in enumerate(prediction.windows):
        inner = (slice(y1 + 2, y2 - 2), slice(x1 + 2, x2 - 2))  # at the ROI's border two resizings differ
        expected = np.zeros(prediction.size, np.float32)
        expected[y1:y2, x1:x2] = prediction.probabilities[number]
        for name in made:
            picture = cv2.imread(str(folder / f"{name}_{number}.png"), cv2.IMREAD_GRAYSCALE)
            assert picture.shape == prediction.size
            assert np.abs(picture / 255 - expected)[inner].mean() < 0.02, name
            level = np.median(expected[inner])  # a mask of half of the ROI, however little is learnt
            clear = np.abs(expected[inner] - level) > 2 / 255  # a PNG has 256 levels
            ours, theirs = (expected[inner] >= level) & clear, (picture[inner] / 255 >= level) & clear
            assert (ours & theirs).sum() / (ours | theirs).sum() >= 0.97, name
            assert picture[: max(0, y1 - 2)].max(initial=0) == 0
    if reader.left_out:
        pytest.skip(f"node or its packages are not here (NODE_MODULES); the rest ran, not {reader.left_out}")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
@pytest.mark.parametrize("size", [(40, 60), (131, 77), (97, 300), (400, 500)])
def test_the_page_s_javascript_resizes_as_the_program(tmp_path, size):
    """Noise: a resizer that averages, or is off by part of a pixel, gives something else."""
    picture = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    (script,) = (text for language, text in boxes("deploy.md") if language == "js")
    function = re.search(r"^function resize.*?^}", script, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "in.bin").write_bytes(picture.tobytes())
    (tmp_path / "resize.mjs").write_text(
        f'import fs from "node:fs";\n{function}\n'
        f'const to = resize(fs.readFileSync("in.bin"), [97, 131], {list(size)}, 3).map(Math.round);\n'
        'fs.writeFileSync("out.bin", Uint8Array.from(to));\n'
    )
    subprocess.run(["node", "resize.mjs"], cwd=tmp_path, check=True)
    found = np.fromfile(tmp_path / "out.bin", np.uint8).reshape(*size, 3)
    height, width = size
    expected = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(found.astype(int) - expected).max() <= 1  # OpenCV rounds its weights to 1/2048


def test_pages_and_their_links():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    index = (ROOT / "docs" / "README.md").read_text()
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    for page in [*pages, "README.md"]:
        for link in re.findall(r"\]\(([\w./-]+\.md)\)", (ROOT / "docs" / page).read_text()):
            assert (ROOT / "docs" / link).is_file(), f"{page}: {link}"


@pytest.mark.parametrize("page", [*RUN, "troubleshooting.md"])
def test_commands_in_running_text_are_commands_of_roiseg(page):
    """What stands between backticks outside the boxes is run nowhere, but it must exist."""
    for name in re.findall(r"python -m roiseg\.(\w+)", (ROOT / "docs" / page).read_text()):
        assert (ROOT / "roiseg" / f"{name}.py").is_file(), name
        assert (ROOT / "conf" / f"{name}.yaml").is_file(), name


@pytest.mark.parametrize("page", RUN)
def test_there_is_something_to_run(page):
    assert any(language == "bash" for language, _ in boxes(page))
    assert Path(ROOT / "docs" / page).is_file()
