import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import ellipse, hole_rle, rectangle, run_command, uncompressed_rle, write_coco
from hypothesis import given
from hypothesis import strategies as st

from roiseg.common.errors import UserError
from roiseg.data import roi_statistics
from roiseg.data.analysis import analysis_path, analyze, load_or_make_analysis, recommend
from roiseg.data.annotation_loading import load_annotations
from roiseg.data.roi_statistics import CLASSES, measure_rois
from roiseg.data.targets import TargetSpec, rasterize_targets
from roiseg.geometry import boxes as box_ops
from roiseg.geometry.transform import Transform

GRID = 40  # every edge of SQUARES lies between two cells of this grid

SQUARES = [
    # 100 x 100 box, person in its left half; the next one covers the right half
    {"file": "a.jpg", "segmentation": rectangle(20, 20, 70, 120), "bbox": [20, 20, 100, 100]},
    {"file": "a.jpg", "segmentation": rectangle(70, 20, 170, 120)},
    {"file": "a.jpg", "segmentation": rectangle(0, 150, 15, 190)},  # 15 px wide: no ROI
    # 80 x 80 box, person in its left half, crowd in its lower right quarter
    {"file": "b.jpg", "segmentation": rectangle(10, 10, 50, 90), "bbox": [10, 10, 80, 80]},
    {"file": "b.jpg", "segmentation": hole_rle(100, 120, (50, 50, 90, 90), (0, 0, 0, 0)), "iscrowd": 1},
    {"file": "b.jpg", "segmentation": rectangle(0, 0, 90, 90), "category_id": 18},
]


@pytest.fixture
def squares(tmp_path):
    return write_coco(
        tmp_path / "set" / "annotations",
        {"a.jpg": (200, 300), "b.jpg": (100, 120), "c.jpg": (50, 50)},
        SQUARES,
    )


def test_shares_of_squares_are_those_of_arithmetic(squares):
    found = analyze(load_annotations(squares.json), grid=GRID)
    assert found["totals"] == {
        "images": 3, "images_with_rois": 2, "instances": 4, "rois": 3, "rois_too_small": 1, "crowds": 1,
    }  # fmt: skip
    assert found["pixels"] == {"background": 400, "target": 3200, "non_target": 800, "ignore": 400}
    expected = {name: count / 4800 for name, count in found["pixels"].items()}
    assert found["shares"] == pytest.approx(expected, abs=1e-6)
    weighted = found["area_weighted"]
    assert weighted["pixels"] == {"background": 1600, "target": 18200, "non_target": 5000, "ignore": 1600}
    assert weighted["shares"]["target"] == pytest.approx(18200 / 26400, abs=1e-6)
    assert found["instances_per_image"] == {"0": 1, "1": 1, "3": 1}
    assert found["overlap"]["any_non_target"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["overlap"]["crowded"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["overlap"]["non_target_share"]["max"] == 0.5
    assert found["overlap"]["nearest_box_iou"]["p50"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["overlap"]["nearest_box_iou"]["min"] == 0
    assert found["roi_size"]["coco"] == {"small": 0, "medium": 1, "large": 2}
    assert found["roi_size"]["width"]["min"] == pytest.approx(80, abs=1e-3)
    assert found["roi_size"]["area"]["max"] == pytest.approx(10_000, rel=1e-5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


BANDS = ["0-16", "16-32", "32-64", "64-96", "96-192", "192+"]


@pytest.mark.parametrize(("min_roi_size", "first"), [(8, 0), (16, 1), (40, 2)])
def test_size_bands_add_up_to_the_totals(squares, min_roi_size, first):
    found = analyze(load_annotations(squares.json), min_roi_size, GRID)
    of_bands = found["size_bands"]
    assert list(of_bands) == BANDS[first:]
    assert sum(band["rois"] for band in of_bands.values()) == found["totals"]["rois"]
    for name, count in found["pixels"].items():
        assert sum(band["pixels"][name] for band in of_bands.values()) == count
    assert of_bands["64-96"]["rois"] == 1
    assert of_bands["64-96"]["shares"] == {"background": 0.25, "target": 0.5, "non_target": 0, "ignore": 0.25}
    nothing = {"rois": 0, "pixels": dict.fromkeys(CLASSES, 0), "shares": dict.fromkeys(CLASSES, None)}
    assert of_bands["192+"] == nothing
    assert sum(found["roi_size"]["sqrt_area_histogram"]["counts"]) == found["totals"]["rois"]


def test_a_roi_of_just_the_smallest_size_is_in_the_first_band(tmp_path):
    outline = {"file": "a.jpg", "segmentation": rectangle(123.3, 77.7, 139.3, 93.7)}
    made = write_coco(tmp_path, {"a.jpg": (427, 641)}, [outline])
    found = analyze(load_annotations(made.json))
    assert found["size_bands"]["16-32"]["rois"] == 1
    assert found["roi_size"]["sqrt_area_histogram"]["counts"] == [1]


@pytest.mark.parametrize(
    ("shares", "kind", "expected"),
    [
        # 1 / share = 2, 10/3, 5; their mean is 31/9
        ([0.5, 0.3, 0.2], "inverse", [18 / 31, 30 / 31, 45 / 31]),
        # 1 / ln 1.52, 1 / ln 1.32, 1 / ln 1.22 = 2.38829, 3.60189, 5.02888; their mean is 3.67302
        ([0.5, 0.3, 0.2], "log", [0.650223, 0.980634, 1.369143]),
        # 50/49, 50 over their mean: 0.04, 1.96; clipped to 0.1, 1.96; mean 1.03
        ([0.98, 0.02], "inverse", [0.1 / 1.03, 1.96 / 1.03]),
        # an absent class: 0.8, 1.2, 10 over 4
        ([0.6, 0.4, 0.0], "inverse", [0.2, 0.3, 2.5]),
        ([1.0, 0.0], "log", [2 / 11, 20 / 11]),
        ([0.0, 0.0, 0.0], "log", [1, 1, 1]),
    ],
)
def test_weights_are_those_of_hand_arithmetic(shares, kind, expected):
    assert recommend(shares, kind) == pytest.approx(expected, abs=2e-6)


def test_recommended_weights_leave_ignore_out_and_merge_non_target_into_background(squares):
    analysis = analyze(load_annotations(squares.json), grid=GRID)
    # 400, 3200, 800 cells: 1 / share = 11, 11/8, 11/2; two classes: 1200, 3200
    assert analysis["class_weights"]["inverse"]["3"] == pytest.approx([24 / 13, 3 / 13, 12 / 13], abs=1e-5)
    assert analysis["class_weights"]["inverse"]["2"] == pytest.approx([16 / 11, 6 / 11], abs=1e-5)
    raw = [1 / math.log(1.02 + 3 / 11), 1 / math.log(1.02 + 8 / 11)]
    assert analysis["class_weights"]["log"]["2"] == pytest.approx([2 * r / sum(raw) for r in raw], abs=1e-5)


def test_analysis_is_made_once_and_again_when_anything_changed(squares, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "out" / "data_analyze.json"

    def made(min_roi_size=16, category_id=1):
        """Is the file written by this call?"""
        if path.exists():
            os.utime(path, ns=(0, 0))
        annotations = load_annotations(squares.json, category_id)
        returned = load_or_make_analysis(path, annotations, min_roi_size, GRID)
        assert json.loads(path.read_text()) == returned
        return path.stat().st_mtime_ns != 0

    assert made()
    assert "does not exist" in caplog.text
    assert not made()
    assert not made(16.0)
    assert made(min_roi_size=15)
    assert "other annotations or parameters" in caplog.text
    assert json.loads(path.read_text())["totals"]["rois"] == 4
    assert made()
    assert made(category_id=18)  # the same file, other instances
    assert made()

    content = squares.content()
    content["annotations"][1]["segmentation"] = [rectangle(70, 20, 120, 120)]
    squares.json.write_text(json.dumps(content))
    assert made()
    assert json.loads(path.read_text())["pixels"]["target"] == 2400


@pytest.mark.parametrize("other", ['{"fingerprint": ', "[1, 2]", "null"])
def test_what_is_not_an_analysis_is_not_replaced_by_one(squares, tmp_path, other):
    path = tmp_path / "data_analyze.json"
    path.write_text(other)
    with pytest.raises(UserError, match=r"data_analyze\.json exists, .* remove it"):
        load_or_make_analysis(path, load_annotations(squares.json))
    assert path.read_text() == other


@pytest.mark.parametrize("entry", ["class_weights", "pixels", "totals", "checksum"])
def test_an_analysis_that_was_changed_is_made_again(squares, tmp_path, caplog, entry):
    annotations, path = load_annotations(squares.json), tmp_path / "data_analyze.json"
    wanted = load_or_make_analysis(path, annotations)
    path.write_text(json.dumps({**wanted, entry: {"log": {"3": [1, 2, 3]}}}))
    assert load_or_make_analysis(path, annotations) == wanted == json.loads(path.read_text())
    assert "was edited or is damaged" in caplog.text


def test_analysis_path_names_the_data_set_and_the_file(tmp_path, monkeypatch):
    assert analysis_path("out", "/x/data/synthetic/annotations/train.json") == Path(
        "out/synthetic_train/data_analyze.json"
    )
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data" / "annotations")
    absolute = analysis_path("out", tmp_path / "data" / "annotations" / "a.json")
    assert absolute == Path("out/data_a/data_analyze.json")
    assert analysis_path("out", "a.json") == absolute
    assert analysis_path("out", "../annotations/a.json") == absolute


@pytest.mark.slow
def test_command_writes_json_and_plots_and_nothing_else(squares, tmp_path):
    (place := tmp_path / "place").mkdir()
    done = run_command(["roiseg.analyze", f"annotations={squares.json}", f"grid={GRID}"], cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    folder = "data/analysis/set_instances"
    index = next((place / "data" / "index").glob("instances_1_*.index")).relative_to(place)
    names = ("data_analyze.json", "data_analyze.png", ".roiseg_made")
    assert files == {*(f"{folder}/{name}" for name in names), str(index)}
    assert {path.name for path in place.iterdir()} == {"data"}
    assert json.loads((place / folder / "data_analyze.json").read_text())["source"] == "instances.json"
    assert str(tmp_path) not in (place / folder / "data_analyze.json").read_text()
    assert "66.7%" in done.stdout
    assert "1.846" in done.stdout
    assert f"{folder}/data_analyze.png" in done.stdout


def one_by_one(annotations, least, grid):
    """Counts [R, 4], nearest IoU [R] and sides [R, 2], image by image and ROI by ROI from drawn targets."""
    counts, nearest, sides = [], [], []
    for image in range(len(annotations)):
        target_index = annotations.eligible(image, least)
        boxes, crowd = annotations.pixel_boxes(image), annotations.crowd[annotations.instances(image)]
        spec = TargetSpec("roi", (grid, grid), 3, annotations.size(image))
        outlines, identity = annotations.outlines(image), Transform(1.0, 1.0, 0.0, 0.0)
        for target in rasterize_targets(spec, outlines, crowd, identity, boxes[target_index], target_index):
            counts.append([int((target == value).sum()) for value in CLASSES.values()])
        for owner in target_index:
            others = [i for i in range(len(boxes)) if i != owner and not crowd[i]]
            ious = [float(box_ops.iou(boxes[[owner]], boxes[[i]])[0, 0]) for i in others]
            nearest.append(max(ious, default=0.0))
            sides.append(boxes[owner, 2:] - boxes[owner, :2])
    return np.array(counts), np.array(nearest), np.array(sides)


def check(annotations, least, grid):
    found = measure_rois(annotations, least, grid)
    counts, nearest, sides = one_by_one(annotations, least, grid)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.nearest_iou, nearest, atol=1e-6)
    np.testing.assert_array_equal(found.sides, sides)
    assert found.images == sum(annotations.eligible_counts(least) > 0)


@pytest.mark.realdata
@pytest.mark.parametrize(("grid", "least"), [(56, 16), (112, 1)])
def test_real_persons(realdata, grid, least):
    path = realdata / "coco128_person/annotations/instances_train2017_person_only_no_crowd.json"
    check(load_annotations(path), least, grid)


@st.composite
def outlines(draw):
    """An instance of `write_coco` in one of three images of odd sizes: polygons or RLE, crowd or not."""
    file, (height, width) = draw(st.sampled_from(list(SIZES.items())))
    x, y = draw(st.floats(-9, width - 9)), draw(st.floats(-9, height - 9))
    w, h = draw(st.floats(8, width)), draw(st.floats(8, height))
    kind = draw(st.sampled_from(["rectangle", "ellipse", "two", "rle"]))
    if kind == "rle":
        mask = np.zeros((height, width), np.uint8)
        mask[max(0, int(y)) : int(y + h) + 1, max(0, int(x)) : int(x + w) + 1] = 1
        mask[::3] = 0
        outline = uncompressed_rle(mask)
    elif kind == "two":
        outline = [rectangle(x, y, x + w / 2, y + h), ellipse(x + w, y + h / 2, w / 3, h / 2)]
    else:
        outline = rectangle(x, y, x + w, y + h) if kind == "rectangle" else ellipse(x, y, w / 2, h / 2)
    box = [max(x, 0), max(y, 0), w, h]  # need not fit the outline
    return {"file": file, "segmentation": outline, "bbox": box, "iscrowd": draw(st.integers(0, 3)) // 3}


SIZES = {"a.png": (61, 83), "b.png": (97, 45), "c.png": (50, 50)}


GRIDS = st.sampled_from([8, 56, 63, 64, 65, 200])


@given(st.lists(outlines(), min_size=1, max_size=9), st.sampled_from([1, 1000, 1 << 17]), GRIDS)
def test_all_at_once_is_what_it_is_one_by_one(tmp_path_factory, instances, at_once, grid):
    instances.append({"file": "b.png", "segmentation": rectangle(3.3, 4.4, 30.1, 40.7)})
    files = write_coco(tmp_path_factory.mktemp("set"), SIZES, instances)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roi_statistics, "_CHUNK", at_once)
        check(load_annotations(files.json), 8, grid)


def test_no_roi_at_all(coco_set):
    found = measure_rois(load_annotations(coco_set.json), 1000, 56)
    assert found.images == len(found.counts) == len(found.sides) == len(found.nearest_iou) == 0
