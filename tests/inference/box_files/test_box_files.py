"""Boxes written in three kinds of files come back as they are; every mistake is one line that names it."""

import csv
import json

import numpy as np
import pytest
from helpers import user_error

from roiseg.common.errors import UserError
from roiseg.inference.box_files import open_boxes
from roiseg.inference.box_files.base import Names
from roiseg.inference.sources.source import SourceImage

SIZE = (100, 200)  # H, W
BOXES = np.array([[10.5, 20, 30, 41.25], [0, 0, 200, 100], [150, 5, 151, 6]], np.float32)
SCORES = np.array([0.9, 0.5, 0.25], np.float32)


def frame(name="a.jpg", number=0):
    return SourceImage(name.rpartition(".")[0] or name, name, number, None, lambda: None)


def write_coco(path, names=("a.jpg", "b.jpg"), **more):
    x1, y1, x2, y2 = BOXES.T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist()
    annotations = [
        {"id": i, "image_id": 7, "category_id": 1, "bbox": box, "score": float(score)}
        for i, (box, score) in enumerate(zip(boxes, SCORES, strict=True))
    ]
    images = [{"id": 7 + i, "file_name": n, "height": 100, "width": 200} for i, n in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return path


def write_results(path, image_id=7):
    write_coco(path)
    records = [{**record, "image_id": image_id} for record in json.loads(path.read_text())["annotations"]]
    path.write_text(json.dumps(records))
    return path


def write_csv(path, name="a.jpg"):
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["note", "y2", "x2", "y1", "x1", "file", "score"])
        for (x1, y1, x2, y2), score in zip(BOXES.tolist(), SCORES.tolist(), strict=True):
            table.writerow(["with, comma", y2, x2, y1, x1, name, score])
        table.writerow(["", 5, 5, 1, 1, "b.jpg", ""])
    return path


def write_yolo(folder, key="a"):
    path = folder / f"{key}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    x1, y1, x2, y2 = BOXES.astype(float).T
    columns = np.stack([(x1 + x2) / 400, (y1 + y2) / 200, (x2 - x1) / 200, (y2 - y1) / 100, SCORES], 1)
    lines = [" ".join(["0", *(f"{v:.9f}" for v in row)]) for row in columns]
    path.write_text("\n".join([*lines, "", "3 0.5 0.5 0.1 0.1"]) + "\n")
    return path


WRITERS = {
    "coco": lambda folder: write_coco(folder / "x.json"),
    "csv": lambda folder: write_csv(folder / "x.csv"),
    "yolo folder": lambda folder: write_yolo(folder / "labels").parent,
    "yolo file": lambda folder: write_yolo(folder / "labels"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_boxes_and_scores_come_back(tmp_path, kind):
    boxes = open_boxes(WRITERS[kind](tmp_path))
    found = boxes.find(frame(), SIZE)
    assert found.boxes == pytest.approx(BOXES, abs=1e-4)
    assert found.scores == pytest.approx(SCORES)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert boxes.lists("a.jpg")
    assert not boxes.lists("c.jpg")
    assert boxes.find(frame("c.jpg"), SIZE) is None


def test_a_listed_picture_may_have_no_boxes_but_no_other_size(tmp_path):
    found = open_boxes(write_coco(tmp_path / "x.json")).find(frame("b.jpg"), SIZE)
    assert found.boxes.shape == (0, 4)
    assert found.image_id == 8
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/b.txt").write_text("")
    assert len(open_boxes(tmp_path / "labels").find(frame("b.jpg"), SIZE).boxes) == 0
    with pytest.raises(UserError, match=r"x\.json says a\.jpg is 200x100 pixels, a\.jpg is 100x100"):
        open_boxes(tmp_path / "x.json").find(frame(), (100, 100))


def test_results_are_found_by_the_number_of_the_name(tmp_path):
    boxes = open_boxes(write_results(tmp_path / "x.json", 139))
    assert boxes.find(frame("val/000000000139.jpg"), SIZE).boxes == pytest.approx(BOXES)
    assert boxes.find(frame("000000000139.jpg"), SIZE).image_id == 139
    assert len(boxes.find(frame("000000000140.jpg"), SIZE).boxes) == 0
    assert boxes.find(frame("a.jpg"), SIZE) is None
    assert not boxes.lists("000000000140.jpg")
    (tmp_path / "nobody.json").write_text("[]")
    assert open_boxes(tmp_path / "nobody.json").lists("12.jpg")


def test_crowds_and_other_categories_are_left_out_and_boxes_without_area_counted(tmp_path, caplog):
    path = write_coco(tmp_path / "x.json")
    content = json.loads(path.read_text())
    first, second, third = content["annotations"]
    second["category_id"], third["iscrowd"] = 18, 1
    content["annotations"].append({**first, "bbox": [1, 1, 0, 5]})
    path.write_text(json.dumps(content))
    assert open_boxes(path).find(frame(), SIZE).boxes == pytest.approx(BOXES[:1])
    assert open_boxes(path, category_id=18).find(frame(), SIZE).boxes == pytest.approx(BOXES[1:2])
    assert "1 boxes without area left out" in caplog.text
    assert "1 boxes marked `iscrowd` left out" in caplog.text
    assert open_boxes(path, crowd="instance").find(frame(), SIZE).boxes == pytest.approx(BOXES[::2])
    path.write_text(json.dumps({**content, "annotations": [third]}))
    with pytest.raises(UserError, match="all boxes are marked `iscrowd`: crowd=instance"):
        open_boxes(path)


@pytest.mark.parametrize(("listed", "wanted", "meant"), [
    (["a.jpg", "x/a.jpg"], "x/a.jpg", "x/a.jpg"), (["x/a.jpg", "b.jpg"], "a.jpg", "x/a.jpg"),
    (["a.jpg"], "x/y/a.jpg", "a.jpg"), (["x\\a.jpg"], "x/a.jpg", "x\\a.jpg"), (["x/a"], "x/a.png", "x/a"),
    (["x/a.png"], "y/a.jpg", None), (["v1.5_000001"], "v1.5_000002", None), (["a.jpg"], "b.jpg", None),
    (["x/a.jpg", "y/x/a.jpg", "a.jpg"], "a.jpg", "a.jpg"),
])  # fmt: skip
def test_names_are_found_however_much_of_the_path_each_side_has(tmp_path, listed, wanted, meant):
    names = Names(listed, tmp_path)
    assert names.find(wanted) == meant
    assert bool(names.candidates(wanted)) == (meant is not None)


def test_names_that_mean_two_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.jpg could be x/a\.jpg or y/a\.jpg"):
        Names(["x/a.jpg", "y/a.jpg"], tmp_path).find("a.jpg")
    names = Names(["a.jpg"], tmp_path)
    names.find("x/a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg could be x/a\.jpg or y/a\.jpg"):
        names.find("y/a.jpg")


COCO_MISTAKES = {
    "not json": ("{", ["x.json", "not valid json", "line 1"]),
    "not coco": ("{}", ["x.json", "no list `images`"]),
    "no annotations": ('{"images": []}', ["x.json", "no list `annotations`"]),
    "box of text": ('[{"image_id": 1, "category_id": 1, "bbox": ["a", 1, 2, 3]}]', ["[0] in boxes file", "`bbox`", "'a'"]),
    "no number": ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN]}]', ["`bbox`", "finite"]),
    "score": ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": "hi"}]', ["[0]", "`score`", "'hi'"]),
    "unknown image": (
        '{"images": [], "annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
        ["annotations[0]", "`image_id` 5"],
    ),
    "image twice": (
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "annotations": []}',
        ["images[1]", "file_name a", "twice"],
    ),
    "image id twice": (
        '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
        ["images[1]", "id 1", "twice"],
    ),
    "image without id": ('{"images": [{"file_name": "a"}], "annotations": []}', ["images[0]", "`id`"]),
    "other category": ('[{"image_id": 1, "category_id": 18, "bbox": [1, 2, 3, 4]}]', ["category_id 1", "it has 18"]),
}  # fmt: skip
CSV_MISTAKES = {
    "empty": ("", ["x.csv", "line 1", "`file`", "file,x1,y1,x2,y2"]),
    "no column": ("file,x1,y1,w,h\n", ["line 1", "`x2`", "file,x1,y1,w,h"]),
    "semicolons": ("file;x1;y1;x2;y2\na;1;2;3;4\n", ["line 1", "file;x1"]),
    "text": ("file,x1,y1,x2,y2\na,1,2,3,4\na,1,zwei,3,4\n", ["line 3", "x.csv", "`y1`", "'zwei'"]),
    "short line": ("file,x1,y1,x2,y2\na,1,2\n", ["line 2", "`x2`", "None"]),
    "infinite": ("file,x1,y1,x2,y2\na,1,2,inf,4\n", ["line 2", "`x2`", "'inf'"]),
    "width for a corner": ("file,x1,y1,x2,y2\na,100,2,50,40\n", ["line 2", "`x2`", "50", "100", "corners"]),
    "score": ("file,x1,y1,x2,y2,score\na,1,2,5,6,high\n", ["line 2", "`score`", "'high'"]),
}
YOLO_MISTAKES = {
    "outlines": ("0 .1 .1 .2 .1 .2 .2 .1 .2\n", ["a.txt", "line 1", "9 values", "outlines"]),
    "text": ("0 .1 .1 .1 .1\nperson .1 .1 .1 .1\n", ["line 2", "person"]),
    "pixels": ("0 10 20 30 40\n", ["line 1", "`cx` is 10", "fraction"]),
    "no width": ("0 .1 .1 0 .1\n", ["line 1", "`width` is 0"]),
    "no number": ("0 .1 .1 .1 .1 nan\n", ["line 1", "`score`"]),
}
MISTAKES = [
    *((f"coco: {name}", "x.json", *case) for name, case in COCO_MISTAKES.items()),
    *((f"csv: {name}", "x.csv", *case) for name, case in CSV_MISTAKES.items()),
    *((f"yolo: {name}", "a.txt", *case) for name, case in YOLO_MISTAKES.items()),
    ("missing", "x.json", None, ["boxes file not found", "x.json", "detector"]),
    ("other suffix", "x.xml", "", ["x.xml", "suffix", ".json, .csv, .txt"]),
    ("binary csv", "x.csv", b"\xff\xfe\x00", ["x.csv", "UTF-8"]),
    ("binary yolo", "a.txt", b"\xff\xfe\x00", ["a.txt", "text"]),
]


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case[0])
def test_mistakes(tmp_path, case):
    _, name, content, words = case
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        open_boxes(tmp_path / name).find(frame(), SIZE)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words]), caught.value


COCO_BOX = '[{{"image_id": 7, "category_id": 1, "bbox": [{}, {}, {}, {}], "score": {}}}]'
ONE_BOX = {
    "7.json": (COCO_BOX, ["1", "2", "30", "40", "0.5"]),
    "7.csv": ("file,x1,y1,x2,y2,score\n7.jpg,{},{},{},{},{}", ["1", "2", "30", "40", "0.5"]),
    "7.txt": ("0 {} {} {} {} {}", ["0.5", "0.5", "0.4", "0.3", "0.5"]),
}


@pytest.mark.parametrize("name", ONE_BOX)
@pytest.mark.parametrize("value", ["1e39", "-1e39", "1" + "0" * 400, "3e38"])
def test_what_float32_cannot_hold_is_refused(tmp_path, name, value):
    text, values = ONE_BOX[name]
    for place in range(5):
        (tmp_path / name).write_text(text.format(*values[:place], value, *values[place + 1 :]))
        found = []
        line = user_error(lambda: found.append(open_boxes(tmp_path / name).find(frame("7.jpg"), SIZE)))  # noqa: B023
        if line:
            assert name in line and len(line) < 500
        else:
            assert value == "3e38"
            assert np.isfinite(found[0].boxes).all() and np.isfinite(found[0].scores).all()
